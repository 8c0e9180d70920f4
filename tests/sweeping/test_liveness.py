"""Whether a worker is alive."""

import json
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from ptl_prefix.sweeping import liveness
from ptl_prefix.sweeping.liveness import Liveness

PRINT_IDENTITY = """
import json
from ptl_prefix.sweeping.liveness import Liveness
print(json.dumps(Liveness().identify()), flush=True)
"""


def test_this_process_is_alive_and_none_is_not() -> None:
    assert Liveness().is_alive(Liveness().identify())
    assert not Liveness().is_alive(None)


def test_a_process_that_ended_is_not_alive_even_before_it_is_waited_for() -> None:
    words = [sys.executable, "-c", f"{PRINT_IDENTITY}input()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        identity = json.loads(other.stdout.readline())
        assert identity["pid"] == other.pid
        assert Liveness().is_alive(identity)

        other.kill()
        deadline = time.monotonic() + 60
        while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not Liveness().is_alive(identity)
    assert not Liveness().is_alive(identity)


def test_a_later_process_with_the_same_pid_is_another_one() -> None:
    mine = Liveness().identify()

    assert not Liveness().is_alive({**mine, "born": mine["born"] - 1})


def test_setting_the_clock_does_not_change_an_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Liveness().identify()
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: create_time(self) + 3600)

    assert Liveness().is_alive(mine)


@pytest.mark.parametrize(("silent_s", "alive"), [(0.0, True), (80.0, True), (100.0, False), (1e6, False)])
def test_a_process_of_another_machine_is_alive_by_its_heartbeat(silent_s: float, alive: bool) -> None:
    far: dict[str, Any] = {**Liveness().identify(), "machine": "elsewhere", "beat": time.time() - silent_s}

    assert Liveness().is_alive(far) is alive


def test_an_identity_reveals_neither_host_name_nor_user() -> None:
    import getpass
    import platform

    identity = str(Liveness().identify())

    assert platform.node() not in identity
    assert getpass.getuser() not in identity


def test_without_proc_the_start_time_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "_start_ticks", lambda pid: None)

    assert Liveness().is_alive(Liveness().identify())
    assert Liveness().identify()["born"] == round(psutil.Process().create_time(), 2)
