"""The mirror of a run in an object store, while the run trains.

In: the plan of a run, whose `outputs_url` may name a store. Out: the run folder is mirrored at every validation and at
the end, in a thread of its own. What the store does never ends a training.
"""

from collections.abc import Callable
from typing import Any, Protocol

import pytorch_lightning as pl

from ptl_prefix.artifacts.remote.address import place_of, run_address
from ptl_prefix.artifacts.remote.background_mirror import BackgroundMirror
from ptl_prefix.artifacts.remote.mirror import Mirror, ReplacedMirrorError
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import ObjectStoreError
from ptl_prefix.training.plan import Plan


class RunMirror(Protocol):
    """The mirror of a run."""

    def start(self) -> None:
        """Begin to mirror; the run writes to its folder from now on."""

    def take(self) -> None:
        """Mirror the folder as it is now; returns at once."""

    def finish(self) -> str | None:
        """Mirror the end of the run; return why the mirror is behind, if it is."""


class NoMirror:
    """The mirror of a run without `outputs_url`, and of ranks other than 0."""

    def start(self) -> None:
        """Do nothing."""

    def take(self) -> None:
        """Do nothing."""

    def finish(self) -> str | None:
        """Nothing is behind."""
        return None


def open_mirror(plan: Plan, folder: RunFolder, notify: Callable[[str], None]) -> RunMirror:
    """The mirror of a run that is about to start or to be resumed.

    Args:
        plan: Plan of the run.
        folder: Run folder.
        notify: Shows the user one line.

    Raises:
        ReplacedMirrorError: The store has something newer than the folder, or another run at the address.
    """
    address = run_address(plan.config)
    if address is None:
        return NoMirror()
    mirror = Mirror(folder.path, address, "run", place_of(plan.config))
    try:
        mirror.require_not_behind()
    except ReplacedMirrorError:
        raise
    except ObjectStoreError as error:
        notify(f"the mirror is not up to date, and the run starts without it: {error}")
    return BackgroundMirror(folder, mirror, notify)


class MirrorAtValidation(pl.Callback):
    """Mirrors the run after each validation; it comes after the callback that writes the checkpoints.

    Args:
        mirror: Mirror of the run.
    """

    def __init__(self, mirror: RunMirror) -> None:
        self._mirror = mirror

    def on_validation_end(self, *_: Any) -> None:
        """Mirror the folder, whose checkpoints are written."""
        self._mirror.take()
