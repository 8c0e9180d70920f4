"""A context in fewer positions: what is matched, and how closely."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch
from support.toy_batches import EQUAL, ToyRows, random_ids
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.backbones.attention_sites import FAMILIES
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.observation import observed_text
from ptl_prefix.backbones.observed_context import ContextAttention, observed_context
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.methods.attention_matching import match_attention, nonnegative_least_squares

LENGTH = 4


def drawn_context(offset: float = 6.0) -> ContextAttention:
    """Attention to 24 tokens of two heads, by queries that have a direction in common."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    queries = normal(2, 200, 8)
    queries[..., 0] += offset
    return ContextAttention(queries, normal(2, 24, 8), normal(2, 24, 8), scaling=8**-0.5)


def output_and_mass(context: ContextAttention, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    scores = context.scaling * context.queries @ keys.mT
    return scores.softmax(-1) @ values, scores.logsumexp(-1)


def test_as_many_positions_as_tokens_are_the_tokens_themselves() -> None:
    context = drawn_context()

    (matched,) = match_attention([context], 24)

    assert_close(matched.table, torch.stack([context.keys, context.values]), rtol=1e-3, atol=1e-3)
    assert matched.output_error < 1e-3
    assert matched.mass == pytest.approx(1.0, abs=1e-3)


def test_few_positions_have_the_attention_of_all_as_nearly_as_they_can() -> None:
    context = drawn_context()
    output, mass = output_and_mass(context, context.keys, context.values)

    (matched,) = match_attention([context], LENGTH)

    def gaps(keys: Tensor, values: Tensor) -> tuple[float, float]:
        own_output, own_mass = output_and_mass(context, keys, values)
        return float((own_output - output).norm() / output.norm()), float((own_mass - mass).abs().mean())

    error, gap = gaps(*matched.table)
    first_error, first_gap = gaps(context.keys[:, :LENGTH], context.values[:, :LENGTH])
    assert error == pytest.approx(matched.output_error, rel=1e-3)
    weights = (context.scaling * context.queries @ matched.table[0].mT).softmax(-1)
    best, _ = gaps(matched.table[0], torch.linalg.lstsq(weights, output).solution)
    assert error == pytest.approx(best, rel=0.02)
    assert error < 0.5 * first_error
    assert gap < 0.5 * first_gap
    assert matched.mass == pytest.approx(1.0, abs=0.1)


def test_queries_without_a_common_direction_leave_keys_where_they_are() -> None:
    # A factor is moved into a key along that direction, so there is nowhere to move it; the mass then falls short.
    context = drawn_context(offset=0.0)

    (matched,) = match_attention([context], LENGTH)

    nearest = torch.cdist(matched.table[0], context.keys).amin(-1)
    assert float(nearest.max()) < 2.0
    assert matched.mass < 0.6


def test_factors_are_those_of_nonnegative_least_squares() -> None:
    share = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], [[1.0, 1.0], [2.0, 3.0], [0.0, 0.0]]]).double()

    factors = nonnegative_least_squares(share.mT @ share, share.sum(dim=1))

    # Of the first, 1 and 1/2 are exact; the free solution of the second is (2, -1).
    assert_close(factors, torch.tensor([[1.0, 0.5], [0.6, 0.0]]).double(), rtol=0, atol=1e-4)


def test_factors_are_those_of_scipy_in_a_problem_beside_others() -> None:
    generator = torch.Generator().manual_seed(3)
    matrices = torch.rand(5, 40, 12, generator=generator, dtype=torch.float64)

    factors = nonnegative_least_squares(matrices.mT @ matrices, matrices.sum(dim=1))

    for matrix, found in zip(matrices, factors, strict=True):
        wanted, _ = scipy.optimize.nnls(matrix.numpy(), np.ones(40))
        assert_close(found, torch.from_numpy(wanted), rtol=0, atol=1e-3)


def test_layers_are_compressed_as_each_alone() -> None:
    contexts = [drawn_context(), drawn_context(offset=1.0)]

    together = match_attention(contexts, LENGTH)

    for matched, context in zip(together, contexts, strict=True):
        (alone,) = match_attention([context], LENGTH)
        assert_close(matched.table, alone.table, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text_start", [0, 4, 12])
def test_a_context_is_observed_as_it_is_read(backbone: Backbone, text_start: int) -> None:
    context, texts = random_ids(12, seed=1), [ids["input_ids"] for ids in islice(ToyRows().rows(range(7)), 3)]

    layers = observed_context(backbone, context, texts, text_start=text_start, num_queries=4)

    (read,) = observed_text(backbone, context).values()  # at positions from 0
    is_learned = backbone.has_hard_position_limit
    # Between 0 and the context's length, learned positions are shared by several tokens.
    same_keys = text_start == 12 or (is_learned and text_start == 0)
    for layer, (keys, values) in zip(layers, read, strict=True):
        assert torch.allclose(layer.values, values, rtol=1e-4, atol=1e-4) == (same_keys or not is_learned)
        assert torch.allclose(layer.keys, keys, rtol=1e-4, atol=1e-4) == same_keys
        assert layer.queries.shape == (
            keys.shape[0],
            12 * backbone.config.num_attention_heads // keys.shape[0],
            keys.shape[2],
        )
    if not is_learned:
        # Only the distance between context and text counts.
        later = observed_context(backbone, context, texts, text_start=text_start + 5, num_queries=4)
        for one, other in zip(layers, later, strict=True):
            assert_close(one.queries @ one.keys.mT, other.queries @ other.keys.mT, **EQUAL)


@pytest.mark.parametrize("family", [name for name, family in sorted(FAMILIES.items()) if len(family.sites) == 1])
def test_every_decoder_only_family_shows_its_attention(family: str, tiny_folders: dict[str, Path]) -> None:
    backbone = load_backbone(str(tiny_folders[family]), dtype="float32")
    context, text = random_ids(6, seed=1), random_ids(5, seed=2)

    layers = observed_context(backbone, context, [text], text_start=6, num_queries=5)

    (read,) = observed_text(backbone, context).values()
    for matched, table in zip(match_attention(layers, 6), read, strict=True):
        assert_close(matched.table, table, rtol=1e-2, atol=1e-2)
        assert matched.mass == pytest.approx(1.0, abs=1e-2)
