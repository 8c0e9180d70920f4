"""What a script does with a base and its bundles.

The README's block under "From Python" is run as it stands, but for the bundles, which every reader has elsewhere: each
string in it that ends in `bundle` names one, and stands for a bundle that is made here. Different strings stand for
different bundles of the shipped backbone.
"""

import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from command_lines import CommandLine

from ptl_prefix import PrefixTuning, load_backbone, load_bundle
from ptl_prefix.commands.cli import cli

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

    first = load_bundle(bundles[0], backbone)
    by_first = first.generate([SOURCE], max_new_tokens=12)
    second = load_bundle(bundles[1], backbone)
    by_second = second.generate([SOURCE], max_new_tokens=12)

    assert by_first != by_second
    assert first.generate([SOURCE], max_new_tokens=12) == by_first, "both are there, and do not mix"
    first.detach()
    second.detach()
    assert torch.equal(backbone.model(ids).logits, bare)
    assert torch.equal(backbone.model.generate(ids, max_new_tokens=4, do_sample=False)[:, : ids.shape[1]], ids)


def test_a_method_is_attached_and_detached_by_hand() -> None:
    backbone = load_backbone(dtype="float32")
    ids = backbone.tokenizer(SOURCE, return_tensors="pt").input_ids
    bare = backbone.model(ids).logits

    method = PrefixTuning(prefix_length=4, reparam="none").attach(backbone)
    assert method.num_trained == 2 * 4 * 4 * 256
    method.detach()

    assert torch.equal(backbone.model(ids).logits, bare)


def test_the_block_in_the_readme_runs(bundles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not README.exists():
        pytest.skip("an installed package has no README.md")
    section = README.read_text(encoding="utf-8").partition("From Python")[2]
    block = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert block is not None, "README.md must show the use from Python"
    paths = iter(bundles)
    made: dict[str, str] = {}

    def made_here(match: re.Match[str]) -> str:
        return repr(made.setdefault(match[0], "") or made.update({match[0]: next(paths)}) or made[match[0]])

    code = re.sub(r'"[^"\n]*bundle"', made_here, block[1])
    monkeypatch.chdir(tmp_path)

    exec(compile(code, str(README), "exec"), {"__name__": "__main__"})

    assert made, "the block must load a bundle"
