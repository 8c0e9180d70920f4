"""What a script does with a base and its bundles.

The README's first block under "From Python" is run as it stands. Where its reader's bundles are it cannot know: the
names `FIRST_BUNDLE` and `SECOND_BUNDLE` in it are the folders of two bundles that are made here.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support.command_lines import CommandLine

from ptl_prefix import PrefixTuning, load_backbone, load_bundle
from ptl_prefix.commands.main import cli

README = Path(__file__).parents[2] / "README.md"
SOURCE = "name : The Golden Mill | kind : pub | city : Paris"


@pytest.fixture(scope="module")
def bundles(command_line: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two bundles of the shipped backbone that write differently."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("bundles") / "run"
        words = [*command_line.embedded, "backbone.dtype=float32", "evaluation.num_examples=2", f"seed={seed}"]
        result = CliRunner().invoke(cli, ["train", *words, f"hydra.run.dir={folder}"])
        assert result.exit_code == 0, result.output
        folders.append(str(folder / "bundle"))
    return folders


def test_a_base_takes_bundles_in_turn_and_is_bare_again(bundles: list[str]) -> None:
    backbone = load_backbone("tiny_gpt2", dtype="float32")
    ids = backbone.tokenizer(SOURCE, return_tensors="pt").input_ids
    bare = backbone.model(ids).logits
    usual_attention = backbone.model.config._attn_implementation

    first = load_bundle(bundles[0], backbone)
    by_first = first.generate([SOURCE], max_new_tokens=12)
    second = load_bundle(bundles[1], backbone)
    by_second = second.generate([SOURCE], max_new_tokens=12)

    assert by_first != by_second
    assert first.generate([SOURCE], max_new_tokens=12) == by_first, "both are there, and do not mix"
    first.detach()
    second.detach()
    assert torch.equal(backbone.model(ids).logits, bare)
    assert backbone.model.config._attn_implementation == usual_attention
    assert torch.equal(backbone.model.generate(ids, max_new_tokens=4, do_sample=False)[:, : ids.shape[1]], ids)


def test_a_method_is_attached_and_detached_by_hand() -> None:
    backbone = load_backbone(dtype="float32")
    ids = backbone.tokenizer(SOURCE, return_tensors="pt").input_ids
    bare = backbone.model(ids).logits

    method = PrefixTuning(prefix_length=4, reparam="none").attach(backbone)
    assert method.num_trainable == 2 * 4 * 4 * 256
    method.detach()

    assert torch.equal(backbone.model(ids).logits, bare)


def test_the_block_in_the_readme_runs(
    bundles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = README.read_text(encoding="utf-8").partition("## From Python\n")[2].partition("\n## ")[0]
    block = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert block is not None, "README.md must show the use from Python"
    names: dict[str, Any] = {"FIRST_BUNDLE": bundles[0], "SECOND_BUNDLE": bundles[1]}
    monkeypatch.chdir(tmp_path)

    exec(compile(block[1], str(README), "exec"), names)

    assert len(capsys.readouterr().out.splitlines()) == 2, "both bundles wrote"
    ids = torch.arange(20, 30)[None]
    assert torch.equal(names["model"](ids).logits, load_backbone("tiny_gpt2").model(ids).logits), "it is bare again"
