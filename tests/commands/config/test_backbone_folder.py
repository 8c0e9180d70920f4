"""`backbone=<path>` is short for the group's choice `local` or `gguf` and its path."""

from pathlib import Path

import pytest

from ptl_prefix.commands.config.backbone_folder import with_backbone_folder


@pytest.mark.parametrize(
    ("override", "expanded"),
    [
        ("backbone=models/mine", ("backbone=local", "backbone.path='models/mine'")),
        ("backbone=openai-community/gpt2", ("backbone=local", "backbone.path='openai-community/gpt2'")),
        ("backbone='a folder/with, signs'", ("backbone=local", "backbone.path='a folder/with, signs'")),
        ("backbone=here", ("backbone=local", "backbone.path='here'")),
        ("backbone=model.gguf", ("backbone=gguf", "backbone.path='model.gguf'")),
        ("backbone=models/Q4.GGUF", ("backbone=gguf", "backbone.path='models/Q4.GGUF'")),
        ("backbone=package:dist-name/a.gguf", ("backbone=gguf", "backbone.path='package:dist-name/a.gguf'")),
        ("backbone=gpt2", ("backbone=gpt2",)),
        ("backbone=own/choice", ("backbone=own/choice",)),
        ("backbone=nowhere", ("backbone=nowhere",)),
        ("backbone=null", ("backbone=null",)),
        ("backbone=gpt2,models/mine", ("backbone=gpt2,models/mine",)),
        ("backbone.path=models/mine", ("backbone.path=models/mine",)),
    ],
)
def test_a_path_or_hub_name_is_written_as_hydra_reads_it(
    override: str, expanded: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "gpt2").mkdir()
    configs = tmp_path / "conf"
    (configs / "backbone/own").mkdir(parents=True)
    (configs / "backbone/own/choice.yaml").write_text("# Mine.\n")

    assert with_backbone_folder(("seed=1", override), str(configs)) == ("seed=1", *expanded)
