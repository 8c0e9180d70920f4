"""What surrounds a training: where it is kept, who is told, who counts, who may stop it, who trains along.

In: made once by `fit.py`. Out: read by `session.py` and `loop.py`; nothing here acts.
"""

from dataclasses import dataclass

from rich.console import Console

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.tracking.events import EventStream
from ptl_prefix.training.meter import Meter
from ptl_prefix.training.ranks import Ranks
from ptl_prefix.training.stopping import StopSignals


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The surroundings of one run.

    Args:
        folder: The run's folder.
        events: Told of what happens.
        console: Where progress is shown.
        meter: Counts steps, tokens and seconds.
        signals: Told to stop.
        ranks: Who trains together.
    """

    folder: RunFolder
    events: EventStream
    console: Console
    meter: Meter
    signals: StopSignals
    ranks: Ranks
