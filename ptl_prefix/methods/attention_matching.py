"""Compresses the keys and values of a context into few positions by attention matching (Zweiger et al., 2026).

In: the keys and values of a context in one layer, and queries of texts that read it. Out: so many keys and values that
the texts attend to them as to the context: with the same output, and with the same attention mass beside their own
text. All steps are in closed form, or are least squares.

1. The keys of highest attention are chosen: by the root mean square of their attention weights over the queries.
2. A factor for each key, by nonnegative least squares, lets the chosen keys have the whole context's attention mass.
3. The values are fitted by least squares, so that the attention output is that of the whole context.

Differences from the paper: its factor is a bias of the attention score, which a prefix of keys and values cannot hold.
Here the logarithm of the factor is moved into the key, along the direction on which the queries have a product closest
to 1: exact where that product is 1 for every query. Values are then fitted to the keys as they are. Queries are those
of training rows that read the whole context, in every layer, where the paper also compresses one layer after another.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ptl_prefix.backbones.observed_context import ContextAttention

_SWEEPS = 100
"""Passes of coordinate descent over the factors; they are few, and their problem is convex."""
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


def match_attention(context: ContextAttention, length: int) -> Matched:
    """Compress the context of one layer into `length` positions, in their order in the context."""
    queries, keys, values = (tensor.double() for tensor in (context.queries, context.keys, context.values))
    scores = context.scaling * queries @ keys.mT  # (kv_heads, queries, context)
    log_mass = scores.logsumexp(-1, keepdim=True)
    weights = (scores - log_mass).exp()
    wanted = weights @ values  # (kv_heads, queries, head_dim)
    chosen = weights.square().mean(dim=1).topk(length).indices.sort().values  # (kv_heads, prefix)

    share = weights.take_along_dim(chosen[:, None], dim=2)  # (kv_heads, queries, prefix)
    log_factors = nonnegative_least_squares(share).log().clamp(-_MOST_LOG_FACTOR, _MOST_LOG_FACTOR)
    direction = _direction_of_ones(context.scaling * queries)  # (kv_heads, head_dim, 1)
    keys = keys.take_along_dim(chosen[:, :, None], dim=1) + log_factors[:, :, None] * direction.mT

    scores = context.scaling * queries @ keys.mT  # (kv_heads, queries, prefix)
    mass = (scores.logsumexp(-1, keepdim=True) - log_mass).mean().exp()
    weights = scores.softmax(-1)
    values = _least_squares(weights, wanted, near=values.take_along_dim(chosen[:, :, None], dim=1))
    error = (weights @ values - wanted).norm() / wanted.norm()
    return Matched(torch.stack([keys, values]).float(), float(error), float(mass))


def nonnegative_least_squares(
    share: Float[Tensor, "kv_heads queries prefix"],
) -> Float[Tensor, "kv_heads prefix"]:
    """Factors >= 0 of the columns with which every row adds up to 1, as closely as possible: coordinate descent."""
    gram, target = share.mT @ share, share.sum(dim=1)  # (kv_heads, prefix, prefix), (kv_heads, prefix)
    factors = torch.ones_like(target)
    for _ in range(_SWEEPS):
        for column in range(factors.shape[1]):
            diagonal = gram[:, column, column]
            gap = target[:, column] - (gram[:, column] * factors).sum(-1)
            factors[:, column] = (factors[:, column] + gap / diagonal.clamp(min=1e-12)).clamp(min=0)
    return factors


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
