"""Replays a run from `config.yaml` and `events.jsonl` to a sink.

In: a run folder, whatever the state of the run. Out: every complete line of its log as an event, in order, and the
run's exit code. A run that was killed or never tracked is thereby tracked as if it had been.
"""

import signal
from collections.abc import Mapping, Sequence
from typing import Any

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.tracking.events import EventSink, RunFacts

_EXIT_CODES = {"finished": 0, "pruned": 0, "stopped": 128 + signal.SIGTERM, "failed": 1}
"""Exit code of the process, by the kind of the last event."""


def replay(folder: RunFolder, sink: EventSink, config: Mapping[str, Any] | None = None) -> None:
    """Send the events of a run to a sink. Each has the additional value `time_s`, when it was logged.

    Args:
        folder: Run folder.
        sink: Sink that is not open; it is closed when this returns.
        config: Config of the run; `None` reads it from the folder.

    Raises:
        RunError: The config or the log is not readable. The sink was not opened.
    """
    events = read_events(folder.events)
    sink.open(facts_for_replay(folder, read_config(folder) if config is None else config))
    exit_code = 1
    try:
        for event in events:
            values = {name: value for name, value in event.items() if name not in ("kind", "step")}
            sink.write(event["kind"], step=event["step"], **values)
        exit_code = _end(sink, events)
    finally:
        sink.close(exit_code)


def facts_for_replay(folder: RunFolder, config: Mapping[str, Any]) -> RunFacts:
    """Facts of a run that has ended: notifications are dropped, and a stop request has no effect."""
    return RunFacts(
        run_id=str(config.get("run_id", folder.path.name)),
        folder=folder,
        config=config,
        resumed_step=None,
        notify=lambda _: None,
        request_stop=lambda: None,
    )


def _end(sink: EventSink, events: Sequence[Mapping[str, Any]]) -> int:
    """Return the exit code of the process. If the last event does not end the run, the run died."""
    kind, step = (events[-1]["kind"], events[-1]["step"]) if events else ("", 0)
    if kind not in _EXIT_CODES:
        sink.write("died", step=step)
    return _EXIT_CODES.get(kind, 1)
