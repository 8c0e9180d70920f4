"""The surroundings of a training: run folder, event stream, console, counters, signals and ranks.

In: the objects that `train.py` creates. Out: one value that the stages of the training read.
"""

import dataclasses
from dataclasses import dataclass

from rich.console import Console

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.tracking.events import EventStream
from ptl_prefix.training.meter import Meter
from ptl_prefix.training.mirroring import NoMirror, RunMirror
from ptl_prefix.training.pack import PackMember
from ptl_prefix.training.ranks import Ranks
from ptl_prefix.training.stopping import StopSignals


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The surroundings of one run.

    Args:
        folder: Run folder.
        events: Event stream of the run.
        console: Console for progress.
        meter: Counts steps, tokens and seconds.
        signals: Receives requests to stop.
        ranks: Ranks that train together.
        member: The run's place in a pack; `None` for a run that has the process to itself.
        mirror: Mirror of the run in an object store.
    """

    folder: RunFolder
    events: EventStream
    console: Console
    meter: Meter
    signals: StopSignals
    ranks: Ranks
    member: PackMember | None = None
    mirror: RunMirror = dataclasses.field(default_factory=NoMirror)
