import pytest

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.commands.targets import build, import_target

DECODING = "ptl_prefix.artifacts.decoding.Decoding"


def test_a_node_becomes_the_object_it_describes() -> None:
    values = {
        "max_new_tokens": 8,
        "min_new_tokens": 0,
        "num_beams": 1,
        "length_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "do_sample": False,
        "temperature": 1.0,
        "top_p": 1.0,
    }

    assert build({"_target_": DECODING, **values}, seed=3) == Decoding(**values, seed=3)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "builtins.eval",
        "ptl_prefix",
        "ptl_prefix.settings.inspect",
        "ptl_prefix.settings.Path",
        "ptl_prefix.settings.conf_dir",
        "ptl_prefix.settings.yaml.YAMLObject",
        "ptl_prefix_of_somebody.Thing",
        "pytorch_lightning.LightningModule",
        "",
        3,
    ],
)
def test_a_config_can_build_nothing_but_classes_of_the_package(path: str) -> None:
    with pytest.raises(ValueError, match=r"`task\._target_` must name a class of ptl_prefix"):
        import_target(path, "task")


def test_a_misspelt_class_is_named() -> None:
    with pytest.raises(ValueError, match=r"ptl_prefix\.artifacts\.decoding has no 'Decodign'"):
        import_target("ptl_prefix.artifacts.decoding.Decodign", "generation")
    with pytest.raises(ValueError, match=r"no module 'ptl_prefix\.artefacts'"):
        import_target("ptl_prefix.artefacts.decoding.Decoding", "generation")
