from pathlib import Path
from typing import Any

import pytest
import yaml
from support.sink_facts import make_facts

from ptl_prefix.artifacts.event_log import EventLog
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import RunError
from ptl_prefix.tracking.events import RunFacts
from ptl_prefix.tracking.replay import replay


class Listener:
    def __init__(self) -> None:
        self.facts: RunFacts | None = None
        self.told: list[tuple[str, int, dict[str, Any]]] = []
        self.exit_codes: list[int] = []

    def open(self, facts: RunFacts) -> None:
        self.facts = facts

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        self.told.append((kind, step, values))

    def close(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.config.write_text(yaml.safe_dump({**make_facts(folder.path).config, "run_id": "the-run"}))
    with EventLog(folder.events) as log:
        log.write("attached", step=0, parameters_trained=7)
        log.write("train", step=1, loss=2.0)
    return folder


def test_every_complete_line_is_replayed_in_order_with_its_time(folder: RunFolder) -> None:
    with folder.events.open("a") as file:
        file.write('{"time_s": 1.0, "kind": "train", "ste')
    listener = Listener()

    replay(folder, listener)

    assert listener.facts is not None and listener.facts.run_id == "the-run"
    assert [(kind, step) for kind, step, _ in listener.told] == [("attached", 0), ("train", 1), ("died", 1)]
    assert listener.told[1][2].keys() == {"time_s", "loss"}


@pytest.mark.parametrize(("end", "exit_code"), [("finished", 0), ("stopped", 143), ("failed", 1), (None, 1)])
def test_the_exit_code_is_that_of_the_end_in_the_log(folder: RunFolder, end: str | None, exit_code: int) -> None:
    if end:
        with EventLog(folder.events) as log:
            log.write(end, step=1)
    listener = Listener()

    replay(folder, listener)

    assert listener.exit_codes == [exit_code]
    assert listener.told[-1][0] == (end or "died")


def test_a_run_that_was_stopped_resumed_and_killed_died(folder: RunFolder) -> None:
    with EventLog(folder.events) as log:
        log.write("stopped", step=1)
        log.write("resumed", step=1, parameters_trained=7)
    listener = Listener()

    replay(folder, listener)

    assert listener.told[-1][:2] == ("died", 1) and listener.exit_codes == [1]


def test_a_folder_without_a_log_is_refused_before_a_sink_is_opened(folder: RunFolder) -> None:
    folder.events.unlink()
    listener = Listener()

    with pytest.raises(RunError, match="must have an event log"):
        replay(folder, listener)

    assert listener.facts is None and listener.exit_codes == []
