import pytest
from support.method_nodes import method_node

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.commands.config.compose import compose_and_check
from ptl_prefix.commands.config.instantiate import build, import_target
from ptl_prefix.commands.config.validate import node_problems
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.errors import ConfigError
from ptl_prefix.settings import defaults_of

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


def test_a_mapping_of_nodes_is_built_with_what_it_belongs_to() -> None:
    node = method_node("prefix_lora", parts={"second": {"rank": 7}})

    method = build(node)

    assert list(method.parts) == ["first", "second"]
    assert (method.parts["first"].prefix_length, method.parts["second"].rank) == (30, 7)


def test_every_mistake_in_a_nested_node_is_named_by_its_whole_path() -> None:
    node = method_node("prefix_lora", parts={"second": {"rank": 0, "dropout": "much"}, "first": {"sites": 3}})
    node["parts"]["first"]["lenght"] = 3

    found = node_problems("method", node)

    assert [mistake.split("`")[1] for mistake in found] == [
        "method.parts.first.lenght",
        "method.parts.first.sites",
        "method.parts.second.rank",
        "method.parts.second.dropout",
    ]


def test_another_method_takes_a_parts_place_and_those_that_collide_are_refused_before_weights_load() -> None:
    other = compose_and_check(VERBS["train"], ["method=prefix_lora", "method@method.parts.second=adapter"])

    with pytest.raises(ConfigError) as caught:
        compose_and_check(VERBS["train"], ["method=prefix_lora", "+method@method.parts.third=prompt_tuning"])

    assert other.config["method"]["parts"]["second"]["name"] == "adapter"
    (mistake,) = caught.value.mistakes
    assert "'first' (prefix_tuning) and 'third' (prompt_tuning) both use the attention slots" in mistake


@pytest.mark.parametrize(
    ("old", "choice"),
    [
        ("ptl_prefix.backbones.outline.LlamaOutline", "llama_13b"),
        ("ptl_prefix.backbones.spec.BackboneSpec", "tiny_gpt2"),
    ],
)
def test_a_config_of_an_older_version_still_builds(old: str, choice: str) -> None:
    node = {**defaults_of(f"backbone/{choice}"), "_target_": old}

    spec = build(node)

    assert isinstance(spec, BackboneSpec)
    assert spec.load_shape().name == choice
