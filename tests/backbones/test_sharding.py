"""Two ranks hold a backbone together: half of it each, and what they compute is what one computes."""

from pathlib import Path

import pytest
import torch
from support import rank_bodies
from support.among_ranks import among_ranks
from support.tiny_runs import Family, TinyRuns
from torch import nn
from torch.testing import assert_close

from ptl_prefix.backbones.attention_sites import layers_of
from ptl_prefix.backbones.observation import text_for_every_site
from ptl_prefix.backbones.sharding import memory_per_rank

FSDP = {"trainer__devices": 2, "trainer__strategy": "fsdp"}
SLACK = 40_000
"""Buffers, which are not divided, rows that do not divide evenly, and what a forward leaves."""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "bart", "t5"])
def test_each_of_two_ranks_holds_half_and_computes_what_one_does(family: Family, tmp_path: Path) -> None:
    tiny = TinyRuns(tmp_path, family)
    alone = tiny.backbone()
    batch = text_for_every_site(alone, torch.arange(12).view(2, 6))

    others = sum(
        4 * weight.numel() for layer in layers_of(alone.model, alone.config)[1:] for weight in layer.parameters()
    )

    ranks = among_ranks(2, rank_bodies.sharded_backbone, tiny, FSDP)

    for rank in ranks:
        assert rank["bytes"] == alone.num_bytes
        for counted, live in (rank["at_rest"], rank["later"]):
            assert counted == pytest.approx(alone.num_bytes / 2, rel=0.01)
            assert live == pytest.approx(alone.num_bytes / 2, abs=SLACK)
        # While a layer computes, the others are divided.
        assert rank["inside"] == pytest.approx(alone.num_bytes - others / 2, abs=100)
        assert_close(torch.tensor(rank["logits"]), alone.logits(batch))
        assert_close(torch.tensor(rank["embedded"]), alone.embed(batch.input_ids))
        assert rank["likelihoods"] == [pytest.approx(row, abs=1e-4) for row in rank_bodies.label_likelihoods(alone)]
        assert rank["moved"] == rank["logits"]


def test_the_memory_of_a_rank_is_its_shard_and_the_gathered_weights() -> None:
    layers = [nn.Linear(10, 10, bias=False) for _ in range(5)]
    model = nn.Sequential(nn.Embedding(30, 10), *layers).requires_grad_(False)
    model.append(nn.Linear(10, 1))  # trained, and so not divided

    held = memory_per_rank(model, layers, num_ranks=4)

    assert held.in_layers == 4 * (800 // 4 + 300 + 2 * 100)
    assert held.at_ends == 4 * (800 // 4 + 2 * 300 + 100)
