"""A prefix whose keys keep their initial values, while its values are trained: `train_keys: false`.

In: a table that computes values alone. Out: a table of keys and values, of which the keys are not parameters.
"""

import torch
from torch import Tensor

from ptl_prefix.methods.prefix_table import KeyValueTable, PrefixTable, widened


class FrozenKeysTable(PrefixTable):
    """Keys that never change beside values that another table computes.

    Args:
        values: Table of the values; any reparametrisation with one part.
    """

    keys: Tensor

    def __init__(self, values: PrefixTable) -> None:
        super().__init__(values.geometry, values.prefix_length)
        self.values = values
        self.register_buffer("keys", torch.randn(values.shape))

    def forward(self) -> KeyValueTable:
        """The keys, and the values as computed now."""
        return torch.cat([self.keys, self.values()], dim=1)

    @torch.no_grad()
    def match(self, scale: Tensor) -> None:
        """Scale the keys like those of a plain table, and the values as their own table does."""
        self.keys.mul_(widened(scale[:, :1]))
        self.values.match(scale[:, 1:])

    @torch.no_grad()
    def fit(self, target: KeyValueTable) -> float:
        """Copy the keys, and fit the values; the relative error is that of the values."""
        self.keys.copy_(target[:, :1])
        return self.values.fit(target[:, 1:])
