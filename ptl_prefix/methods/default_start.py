"""The start of a prefix where none is chosen: initialisation, reparametrisation and learning rate.

In: what is given, and whether attention can be matched. Out: all of it. The defaults are the start with the lowest
validation loss of all that were compared on SmolLM2-135M over three tasks (`docs/explanation/evidence.md`).
"""

from dataclasses import dataclass
from typing import Literal

from ptl_prefix.methods.prefix_start import Init

Reparam = Literal["none", "mlp", "linear", "embedding"]

_LR_OF_TABLE, _LR_OF_OTHERS = 0.03, 0.001
"""Learning rates of a plain table, whose rows AdamW moves one by one, and of parameters that many rows share."""


@dataclass(frozen=True)
class Start:
    """A whole start.

    Args:
        init: Initial keys and values; see `PrefixTuning`.
        reparam: How keys and values are computed during training.
        default_lr: Learning rate of a run that sets none.
    """

    init: Init
    reparam: Reparam
    default_lr: float


@dataclass(frozen=True)
class GivenStart:
    """What is given of a start; `None` where nothing is. See `Start`."""

    init: Init | None
    reparam: Reparam | None
    default_lr: float | None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to choose."""
        return None not in (self.init, self.reparam, self.default_lr)

    def complete(self, *, can_match_attention: bool) -> Start:
        """Choose the rest.

        Args:
            can_match_attention: Whether the backbone is decoder-only, and the task gives training rows.
        """
        can_match = can_match_attention and self.reparam != "embedding"
        init: Init = self.init or ("attention_matching" if can_match else "random")
        # Drawn rows learn slowly one by one, and faster behind an MLP; the backbone's own rows are kept as they are.
        reparam: Reparam = self.reparam or ("mlp" if init in ("random", "zero_values") else "none")
        lr = _LR_OF_TABLE if reparam == "none" else _LR_OF_OTHERS
        return Start(init, reparam, self.default_lr or lr)

    def chosen(self, start: Start) -> dict[str, str | float]:
        """The settings of a completed start that were not given."""
        return {key: value for key, value in vars(start).items() if getattr(self, key) is None}
