"""Writes the curves of a run as TensorBoard event files in `tensorboard/`.

tensorboardX writes the same files as TensorBoard's own writer and needs neither TensorFlow nor TensorBoard.
"""

from typing import Any

from ptl_prefix.tracking.events import RunFacts
from ptl_prefix.tracking.numbers import CURVES, numeric_values


class TensorBoardSink:
    """Writes event files in the run folder."""

    def open(self, facts: RunFacts) -> None:
        """Open a new file. TensorBoard hides the steps that a resumed run repeats."""
        from tensorboardX import SummaryWriter

        purged = None if facts.resumed_step is None else facts.resumed_step + 1
        self._writer = SummaryWriter(str(facts.folder.path / "tensorboard"), purge_step=purged)

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Add a point to each curve, and samples as text."""
        if kind in CURVES:
            for name, value in numeric_values(values).items():
                self._writer.add_scalar(name, value, global_step=step)
        for index, sample in enumerate(values.get("samples", ())):
            text = "\n\n".join(f"**{name}** {words}" for name, words in sample.items())
            self._writer.add_text(f"sample {index}", text, global_step=step)

    def close(self, exit_code: int) -> None:
        """Flush and close the file."""
        self._writer.close()
