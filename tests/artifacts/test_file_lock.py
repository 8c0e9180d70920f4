"""The file lock: one process at a time, for as long as it lives, and the options of those who wait."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ptl_prefix.artifacts import file_lock
from ptl_prefix.artifacts.file_lock import FileLock, lock_file
from ptl_prefix.errors import RunError

HOLD = """
import sys, time
from pathlib import Path
from ptl_prefix.artifacts.file_lock import FileLock
with FileLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def no_locks(*_: object) -> None:
    raise OSError("No locks available")


def test_a_lock_that_another_holds_is_refused_in_time_with_the_error_of_the_caller(path: Path) -> None:
    with FileLock(path):
        assert FileLock(path).is_held()
        with pytest.raises(ValueError, match="wait for it"):
            FileLock(path, timeout_s=0.05, busy=ValueError("wait for it")).acquire()
        with pytest.raises(TimeoutError, match=r"\.lock"):
            FileLock(path, timeout_s=0.0).acquire()

    assert not FileLock(path).is_held()


def test_a_lock_without_a_timeout_is_waited_for(path: Path) -> None:
    first, second = FileLock(path), FileLock(path)
    first.acquire()
    waiting = threading.Thread(target=second.acquire)
    waiting.start()

    waiting.join(0.1)
    assert waiting.is_alive()
    first.release()
    waiting.join(30)

    assert not waiting.is_alive()
    second.release()
    second.release()  # nothing is held any more


def test_a_lock_is_waited_for_while_something_else_is_done(path: Path) -> None:
    first, second = FileLock(path), FileLock(path)
    first.acquire()
    calls: list[bool] = []

    def release_at_the_third_call() -> None:
        calls.append(first.is_held())
        if len(calls) == 3:
            first.release()

    second.acquire(release_at_the_third_call, every_s=0.01)

    assert calls[:3] == [True] * 3
    assert second.is_held()
    second.release()
    second.acquire(lambda: pytest.fail("a free lock is not waited for"), every_s=0.0)
    second.release()


def test_a_file_system_that_fails_while_a_lock_is_waited_for_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_later(*_: object, timeout_s: float | None) -> bool:
        if timeout_s is None:
            raise OSError("Stale file handle")
        return False

    calls: list[int] = []

    def not_for_ever() -> None:
        calls.append(len(calls))
        assert len(calls) < 100

    monkeypatch.setattr(file_lock, "lock_file", fails_later)

    with pytest.raises(OSError, match="Stale file handle"):
        FileLock(path).acquire(not_for_ever, every_s=0.01)


def test_a_lock_that_is_no_longer_waited_for_is_left_to_others(path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    first, second = FileLock(path), FileLock(path)
    first.acquire()
    with pytest.raises(KeyboardInterrupt):
        second.acquire(interrupt, every_s=0.01)
    first.release()

    with FileLock(path, timeout_s=30.0) as third:
        assert third.is_held()


def test_a_process_that_is_killed_releases_its_lock(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert FileLock(path).is_held()
        holder.send_signal(signal.SIGKILL)

    with FileLock(path, timeout_s=5.0):
        assert path.read_bytes() == b""


def test_looking_at_a_lock_makes_no_file(path: Path) -> None:
    assert not FileLock(path).is_held()
    assert not path.exists()


def test_shared_locks_stand_beside_each_other_but_not_beside_an_exclusive_one(path: Path) -> None:
    path.touch()
    with path.open("rb") as one, path.open("rb") as other, path.open("rb") as third:
        assert lock_file(one, shared=True, timeout_s=0.0)
        assert lock_file(other, shared=True, timeout_s=None)
        assert not lock_file(third, timeout_s=0.05)


def test_a_file_system_without_locks_is_an_error_only_where_the_lock_is_required(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock.fcntl, "flock", no_locks)

    with pytest.raises(OSError, match="No locks available"):
        FileLock(path).acquire()
    with FileLock(path, timeout_s=0.0, required=False):
        assert not FileLock(path).is_held()


def test_a_link_in_place_of_a_lock_is_refused_and_its_target_is_left_alone(path: Path) -> None:
    victim = path.with_name("victim")
    victim.write_text("mine")
    path.symlink_to(victim)

    with pytest.raises(RunError, match=r"is a symbolic link to .*victim, which is left as it is"):
        FileLock(path).acquire()

    assert victim.read_text() == "mine"
    assert not FileLock(path).is_held()


def test_a_lock_file_keeps_its_content(path: Path) -> None:
    path.write_text("notes")

    with FileLock(path):
        pass

    assert path.read_text() == "notes"
