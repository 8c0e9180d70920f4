"""The bare backbone, as the baseline that methods are compared with.

In: a batch. Out: the batch, with positions.
"""

from typing import Any, Self

from torch import Tensor

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.methods.method import Method


class NoAdaptation(Method):
    """The bare backbone as a method."""

    kind = "none"

    def __init__(self) -> None:
        super().__init__(name="none", default_lr=0.0)

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Set the positions; nothing else changes."""
        return inputs.with_positions()

    def neutralize(self) -> None:
        """Nothing to disable."""

    @property
    def num_stored(self) -> int:
        """Zero."""
        return 0

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Refused: there is nothing to export."""
        raise ValueError("The bare backbone has nothing to export.")

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Refused: no bundle holds it."""
        raise ValueError("The bare backbone is in no bundle.")

    def _attach(self, backbone: Backbone) -> None: ...

    def _detach(self) -> None: ...
