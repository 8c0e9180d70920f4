"""The batches of a whole run as one pass.

In: batches that come in epochs. Out: the run's batches, epoch after epoch, of known number. Lightning sees a single
epoch, so that its epochs cut neither accumulation windows nor validation intervals, and resumes at the exact batch.
"""

from collections.abc import Iterator
from typing import Any

from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.data.batches import TrainBatches


class BatchStream:
    """`num_batches` batches, starting over as often as needed.

    Args:
        batches: One epoch at each pass; its position is this stream's position.
        num_batches: Batches of the whole run.
    """

    def __init__(self, batches: TrainBatches, num_batches: int) -> None:
        self._batches = batches
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[ModelInputs]:
        # Endless: who takes how many is Lightning's affair, which counts from where a resumed run stood.
        while True:
            yield from self._batches

    def state_dict(self) -> dict[str, Any]:
        """The exact position."""
        return self._batches.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position."""
        self._batches.load_state_dict(state)
