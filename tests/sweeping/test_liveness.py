"""Who is at work, and who only was."""

import json
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from ptl_prefix.sweeping import liveness
from ptl_prefix.sweeping.liveness import identify_this_process, is_alive

PRINT_IDENTITY = """
import json
from ptl_prefix.sweeping.liveness import identify_this_process
print(json.dumps(identify_this_process()), flush=True)
"""


def test_this_process_is_alive_and_nobody_is_not() -> None:
    assert is_alive(identify_this_process())
    assert not is_alive(None)


def test_a_process_is_an_owner_until_it_ends_even_if_nobody_has_waited_for_it() -> None:
    words = [sys.executable, "-c", f"{PRINT_IDENTITY}input()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        said = json.loads(other.stdout.readline())
        assert said["pid"] == other.pid
        assert is_alive(said)

        other.kill()
        deadline = time.monotonic() + 60
        while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not is_alive(said)
    assert not is_alive(said)


def test_a_later_process_of_the_same_number_is_somebody_else() -> None:
    mine = identify_this_process()

    assert not is_alive({**mine, "born": mine["born"] - 1})


def test_a_clock_that_is_set_makes_nobody_another(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = identify_this_process()
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: create_time(self) + 3600)

    assert is_alive(mine)


@pytest.mark.parametrize(("silent_s", "alive"), [(0.0, True), (80.0, True), (100.0, False), (1e6, False)])
def test_of_another_machine_only_the_beat_tells(silent_s: float, alive: bool) -> None:
    far: dict[str, Any] = {**identify_this_process(), "machine": "elsewhere", "beat": time.time() - silent_s}

    assert is_alive(far) is alive


def test_an_owner_names_no_machine_and_nobody() -> None:
    import getpass
    import platform

    said = str(identify_this_process())

    assert platform.node() not in said
    assert getpass.getuser() not in said


def test_the_system_is_asked_another_way_where_it_has_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "_start_ticks", lambda pid: None)

    assert is_alive(identify_this_process())
    assert identify_this_process()["born"] == round(psutil.Process().create_time(), 2)
