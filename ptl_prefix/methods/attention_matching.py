"""Compresses the keys and values of a context into few positions by attention matching (Zweiger et al., 2026).

In: the keys and values of a context in each layer, and queries of texts that read it. Out: so many keys and values that
the texts attend to them as to the context: with the same output, and with the same attention mass beside their own
text. All steps are in closed form, or are least squares.

1. The keys of highest attention are chosen: by the root mean square of their attention weights over the queries.
2. A factor for each key, by nonnegative least squares, lets the chosen keys have the whole context's attention mass.
3. The values are fitted by least squares, so that the attention output is that of the whole context.

Differences from the paper: its factor is a bias of the attention score, which a prefix of keys and values cannot hold.
Here the logarithm of the factor is moved into the key, along the direction on which the queries have a product closest
to 1: exact where that product is 1 for every query. Values are then fitted to the keys as they are. Queries are those
of training rows that read the whole context, in every layer, where the paper also compresses one layer after another.

The least squares problems of all layers and heads are independent, so their factors are found together: a prefix of 256
rows takes as many passes over columns in one loop as one head would.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ptl_prefix.backbones.observed_context import ContextAttention

_SWEEPS = 500
"""Most passes of coordinate descent over the factors; they are few, and their problem is convex."""
_LEAST_CHANGE = 1e-6
"""Largest change of a factor in a pass after which no other pass follows."""
_MOST_LOG_FACTOR = 3.0
"""Bound on a factor's logarithm, either way: a factor of 0 would need a key of infinite size."""
_RIDGE = 1e-3
"""Pull of a fitted value towards the chosen key's own one, and of a direction towards 0, relative to the problem's
scale."""


class Matched(NamedTuple):
    """The compressed context of one layer.

    Args:
        table: Keys and values.
        output_error: Norm of the difference between the attention outputs, relative to that of the context's.
        mass: Attention mass of the keys, as a share of the context's: the geometric mean over queries.
    """

    table: Float[Tensor, "two kv_heads prefix head_dim"]
    output_error: float
    mass: float


def match_attention(contexts: Sequence[ContextAttention], length: int) -> list[Matched]:
    """Compress the context of each layer into `length` positions, in their order in the context."""
    chosen = [_choose(context, length) for context in contexts]
    factors = nonnegative_least_squares(
        torch.cat([one.gram for one in chosen]), torch.cat([one.sums for one in chosen])
    )
    ends = list(accumulate(len(one.indices) for one in chosen))  # of each layer's heads
    return [
        _fit(context, one.indices, factors[end - len(one.indices) : end])
        for context, one, end in zip(contexts, chosen, ends, strict=True)
    ]


class _Chosen(NamedTuple):
    """The chosen keys of one layer, and the least squares problem of their factors."""

    indices: Int[Tensor, "kv_heads prefix"]
    gram: Float[Tensor, "kv_heads prefix prefix"]
    sums: Float[Tensor, "kv_heads prefix"]


def _choose(context: ContextAttention, length: int) -> _Chosen:
    """The keys of highest attention; every query wants their shares of its attention to add up to 1."""
    scores = context.scaling * context.queries.double() @ context.keys.double().mT  # (kv_heads, queries, context)
    weights = scores.softmax(-1)
    indices = weights.square().mean(dim=1).topk(length).indices.sort().values  # (kv_heads, prefix)
    share = weights.take_along_dim(indices[:, None], dim=2)  # (kv_heads, queries, prefix)
    return _Chosen(indices, share.mT @ share, share.sum(dim=1))


def _fit(
    context: ContextAttention, chosen: Int[Tensor, "kv_heads prefix"], factors: Float[Tensor, "kv_heads prefix"]
) -> Matched:
    """Keys with these factors in them, and the values that fit the context's attention output."""
    queries, keys, values = (tensor.double() for tensor in (context.queries, context.keys, context.values))
    scores = context.scaling * queries @ keys.mT  # (kv_heads, queries, context)
    log_mass = scores.logsumexp(-1, keepdim=True)
    wanted = (scores - log_mass).exp() @ values  # (kv_heads, queries, head_dim)
    log_factors = factors.log().clamp(-_MOST_LOG_FACTOR, _MOST_LOG_FACTOR)
    direction = _direction_of_ones(context.scaling * queries)  # (kv_heads, head_dim, 1)
    keys = keys.take_along_dim(chosen[:, :, None], dim=1) + log_factors[:, :, None] * direction.mT

    scores = context.scaling * queries @ keys.mT  # (kv_heads, queries, prefix)
    mass = (scores.logsumexp(-1, keepdim=True) - log_mass).mean().exp()
    weights = scores.softmax(-1)
    values = _least_squares(weights, wanted, near=values.take_along_dim(chosen[:, :, None], dim=1))
    error = (weights @ values - wanted).norm() / wanted.norm()
    return Matched(torch.stack([keys, values]).float(), float(error), float(mass))


def nonnegative_least_squares(
    gram: Float[Tensor, "problems unknowns unknowns"], sums: Float[Tensor, "problems unknowns"]
) -> Float[Tensor, "problems unknowns"]:
    """Solutions >= 0 of many least squares problems at once, by coordinate descent from 1.

    Args:
        gram: Products A'A of the problems' matrices A.
        sums: Products A'b with what A x is to be close to.
    """
    found = torch.ones_like(sums)
    columns = gram.transpose(0, 1).contiguous()  # (unknowns, problems, unknowns), each a row of memory
    scales = gram.diagonal(dim1=1, dim2=2).clamp(min=1e-12).T.contiguous()  # (unknowns, problems)
    for _ in range(_SWEEPS):
        before = found.clone()
        for place, (column, scale) in enumerate(zip(columns, scales, strict=True)):
            gap = sums[:, place] - (column * found).sum(-1)
            found[:, place] = (found[:, place] + gap / scale).clamp(min=0)
        if float((found - before).abs().max()) < _LEAST_CHANGE:
            break
    return found


def _direction_of_ones(queries: Float[Tensor, "kv_heads queries head_dim"]) -> Float[Tensor, "kv_heads head_dim 1"]:
    """The vector whose product with the queries is as close to 1 as possible."""
    ones, zeros = torch.ones_like(queries[:, :, :1]), torch.zeros_like(queries[:, 0, :, None])
    return _least_squares(queries, ones, near=zeros)


def _least_squares(
    rows: Float[Tensor, "kv_heads queries unknowns"],
    wanted: Float[Tensor, "kv_heads queries columns"],
    *,
    near: Float[Tensor, "kv_heads unknowns columns"],
) -> Float[Tensor, "kv_heads unknowns columns"]:
    """The solution x of rows x = wanted by least squares, with a slight pull towards `near`."""
    gram = rows.mT @ rows
    ridge = _RIDGE * gram.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None]
    gram = gram + ridge * torch.eye(gram.shape[1], dtype=gram.dtype)
    solution: Tensor = near + torch.linalg.solve(gram, rows.mT @ (wanted - rows @ near))
    return solution
