"""Prefixes outside the softmax: what they add to the output of attention over the text.

In: the queries of one attention module. Out: a vector for each query and head, which `prefix_attention` adds to the
module's output. Attention over the text itself stays as it is without a prefix. One addition serves every row of a
batch.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

FeatureMap = Literal["elu", "gelu"]
_FEATURE_MAPS: Mapping[str, Callable[[Tensor], Tensor]] = {"elu": nn.functional.elu, "gelu": nn.functional.gelu}


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The attention of a module's queries, with its scale and its bound on scores, as (batch, queries, heads, head_dim): to
keys and values, each (batch, kv_heads, keys, head_dim), where a mask, (batch, 1, queries, keys), is True."""


class AttentionAddition(ABC):
    """What is added to the output of one attention module."""

    @abstractmethod
    def output(
        self, query: Float[Tensor, "batch heads queries head_dim"], attend: Attend
    ) -> Float[Tensor, "batch queries heads head_dim"]:
        """The addition for each query.

        Args:
            query: The queries, after the rotary embedding if the model has one.
            attend: The module's attention with these queries.
        """

    @abstractmethod
    def to(self, *, device: torch.device, dtype: torch.dtype) -> Self:
        """The same addition on another device and in another dtype; gradients flow back."""


@dataclass(frozen=True)
class GatedStates(AttentionAddition):
    """gate * softmax(Q P_K^T) P_V: attention to a prefix alone, times a gate for each head.

    Args:
        key: P_K, as attention uses keys: after the rotary embedding if the model has one.
        value: P_V.
        gate: Factor of each head.
    """

    key: Float[Tensor, "kv_heads prefix head_dim"]
    value: Float[Tensor, "kv_heads prefix head_dim"]
    gate: Float[Tensor, " heads"]

    def output(
        self, query: Float[Tensor, "batch heads queries head_dim"], attend: Attend
    ) -> Float[Tensor, "batch queries heads head_dim"]:
        """Every query sees the whole prefix, which has no distance to it and hence no position bias."""
        batch, _, queries, _ = query.shape
        visible = torch.ones(batch, 1, queries, self.key.shape[1], dtype=torch.bool, device=query.device)
        attended = attend(self.key.expand(batch, -1, -1, -1), self.value.expand(batch, -1, -1, -1), visible)
        return self.gate[:, None] * attended

    def to(self, *, device: torch.device, dtype: torch.dtype) -> Self:
        """See `AttentionAddition`."""
        return dataclasses.replace(
            self, key=self.key.to(device, dtype), value=self.value.to(device, dtype), gate=self.gate.to(device, dtype)
        )


@dataclass(frozen=True)
class QueryMap(AttentionAddition):
    """phi(q)^T M: a function of the query alone.

    Args:
        matrix: M, one for each head of keys and values, shared by the query heads of its group.
        feature_map: phi, applied to each channel.
    """

    matrix: Float[Tensor, "kv_heads head_dim head_dim"]
    feature_map: FeatureMap

    def output(
        self, query: Float[Tensor, "batch heads queries head_dim"], attend: Attend
    ) -> Float[Tensor, "batch queries heads head_dim"]:
        """See `AttentionAddition`."""
        batch, _, queries, head_dim = query.shape
        features = _FEATURE_MAPS[self.feature_map](query)
        grouped = features.reshape(batch, len(self.matrix), -1, queries, head_dim)  # (batch, kv_heads, group, ...)
        return torch.einsum("bkgqd,kde->bqkge", grouped, self.matrix).flatten(2, 3)

    def to(self, *, device: torch.device, dtype: torch.dtype) -> Self:
        """See `AttentionAddition`."""
        return dataclasses.replace(self, matrix=self.matrix.to(device, dtype))
