"""The batches of a whole run as one epoch of Lightning.

In: batches of one epoch per pass. Out: the batches of all epochs, with a known number. Lightning sees a single epoch,
whose end cuts neither accumulation windows nor validation intervals, and resumes at the exact batch.
"""

from collections.abc import Iterator
from typing import Any

from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.data.batches import TrainBatches
from ptl_prefix.errors import RunError


class BatchStream:
    """The batches of a run, epoch after epoch.

    Args:
        batches: Batches of one epoch per pass; their position is the position of this stream.
        num_batches: Number of batches in the run.
    """

    def __init__(self, batches: TrainBatches, num_batches: int) -> None:
        self._batches = batches
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[ModelInputs]:
        # Endless: Lightning takes as many as it needs, and counts from the position of a resumed run.
        while True:
            yield from self._batches

    def state_dict(self) -> dict[str, Any]:
        """The position of the next batch."""
        return self._batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a position.

        Raises:
            RunError: The position belongs to another order: other rows, another seed or batch size.
        """
        try:
            self._batches.load_state_dict(state)
        except ValueError as error:
            raise RunError(
                f"A resumed run must have the training rows and settings that it began with, but: {error} "
                "Restore them, or accept other rows with resume_anyway=[data]."
            ) from error
