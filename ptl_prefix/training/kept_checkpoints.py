"""Older checkpoints of a run: `step-<step>.ckpt` beside `last.ckpt`.

In: a run folder, and how many of its newest checkpoints are kept. Out: files that `ptl-prefix export` reads, and from
which a run is resumed if newer ones are damaged.
"""

import os
import shutil
from pathlib import Path

from ptl_prefix.artifacts.atomic import write_file_atomically
from ptl_prefix.artifacts.run_folder import RunFolder


class KeptCheckpoints:
    """The older checkpoints of one run.

    `last.ckpt` gets a second name before it is replaced: nothing is written twice, and at no moment the folder has
    fewer whole checkpoints than before.

    Args:
        folder: Run folder.
        keep_last: Number of newest checkpoints that are kept, `last.ckpt` included.
    """

    def __init__(self, folder: RunFolder, keep_last: int) -> None:
        self._folder, self._num_older = folder, keep_last - 1

    def keep(self, step: int | None, *, before: int) -> None:
        """Give `last.ckpt` the name of its step, before it is replaced.

        Args:
            step: Step of `last.ckpt`; `None` if there is none.
            before: Step of the checkpoint that will replace it.
        """
        if self._num_older == 0 or step is None or step >= before or not self._folder.last.exists():
            return
        target = self._folder.kept(step)
        target.unlink(missing_ok=True)
        try:
            os.link(self._folder.last, target)
        except OSError:  # a file system without links
            copy_checkpoint(self._folder.last, target)

    def remove_others(self, *, newest: int) -> None:
        """Remove all but the newest older ones, and those of later steps, which a resumed run makes again.

        Args:
            newest: Step of `last.ckpt`.
        """
        steps = self._folder.kept_steps()
        older = [step for step in steps if step < newest]
        kept = older[-self._num_older :] if self._num_older else []
        for step in set(steps) - set(kept):
            self._folder.kept(step).unlink(missing_ok=True)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a checkpoint, atomically."""
    with write_file_atomically(target) as temporary:
        shutil.copyfile(source, temporary)
