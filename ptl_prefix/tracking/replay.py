"""A run told again, from its folder alone: `config.yaml` and `events.jsonl`.

In: a folder, whatever became of its run. Out: every whole line of its log at a sink, in order, and the end that the run
had; so that what was killed, or never tracked, is as if it had been.
"""

import signal
from collections.abc import Mapping, Sequence
from typing import Any

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.tracking.events import EventSink, RunFacts

_EXIT_CODES = {"finished": 0, "pruned": 0, "stopped": 128 + signal.SIGTERM, "failed": 1}
"""What the process ended with, by the last line of its log."""


def replay(folder: RunFolder, sink: EventSink, config: Mapping[str, Any] | None = None) -> None:
    """Tell a sink what happened. Its events have a value `time_s` more than when they happened.

    Args:
        folder: The run's.
        sink: Not opened yet; closed when this returns.
        config: The run's, if it was read already.

    Raises:
        RunError: When config or log cannot be read; the sink has not been opened then.
    """
    events = read_events(folder.events)
    sink.open(facts_for_replay(folder, read_config(folder) if config is None else config))
    exit_code = 1
    try:
        for event in events:
            told = {name: value for name, value in event.items() if name not in ("kind", "step")}
            sink.write(event["kind"], step=event["step"], **told)
        exit_code = _end(sink, events)
    finally:
        sink.close(exit_code)


def facts_for_replay(folder: RunFolder, config: Mapping[str, Any]) -> RunFacts:
    """What a sink is told of a run that is over: nobody listens, and nothing can be stopped."""
    return RunFacts(
        run_id=str(config.get("run_id", folder.path.name)),
        folder=folder,
        config=config,
        resumed_step=None,
        notify=lambda _: None,
        request_stop=lambda: None,
    )


def _end(sink: EventSink, events: Sequence[Mapping[str, Any]]) -> int:
    """The process's exit code, as far as the log tells. A log whose last line is no end is that of a run that died."""
    kind, step = (events[-1]["kind"], events[-1]["step"]) if events else ("", 0)
    if kind not in _EXIT_CODES:
        sink.write("died", step=step)
    return _EXIT_CODES.get(kind, 1)
