"""What a script does with a backbone and its bundles; tests/docs runs the Python blocks of the documents."""

import pytest
import torch
from click.testing import CliRunner
from support.command_lines import CommandLine

from ptl_prefix import PrefixTuning, load_backbone, load_bundle
from ptl_prefix.commands.main import cli

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
