"""A killed process releases its lock, and a line that it did not finish does not damage the journal."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest

from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.storage import JOURNAL_FILE, StudyStorage, absolute_url, url_of_driver, without_password

HOLD = """
import sys, time
from pathlib import Path
from ptl_prefix.sweeping.storage import StudyStorage
storage = StudyStorage(Path(sys.argv[1]), None)
{hold}
    print("held", flush=True)
    time.sleep(60)
"""
HOLD_STUDY = HOLD.format(hold="with storage.lock():")
HOLD_JOURNAL = HOLD.format(hold="if storage.trials._backend._lock.acquire():")

ADD = """
import sys
from pathlib import Path
import optuna
from ptl_prefix.sweeping.storage import StudyStorage
folder, url, count = Path(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
storage = StudyStorage(folder, url)
study = optuna.create_study(study_name="s", storage=storage.trials, load_if_exists=True)
for number in range(count):
    with storage.lock():
        before = len(study.get_trials(deepcopy=False))
        trial = study.ask()
        assert trial.number == before, (trial.number, before)
    study.tell(trial, 1.0)
"""


def script(text: str, *words: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def url_of(kind: str, folder: Path) -> str | None:
    return None if kind == "journal" else f"sqlite:///{folder}/trials.db"


def numbers(storage: StudyStorage) -> list[int]:
    study = optuna.create_study(study_name="s", storage=storage.trials, load_if_exists=True)
    return [trial.number for trial in study.get_trials()]


@pytest.mark.parametrize("holding", [HOLD_STUDY, HOLD_JOURNAL], ids=["the study's lock", "the journal's lock"])
def test_a_process_that_is_killed_while_it_holds_a_lock_blocks_nobody(tmp_path: Path, holding: str) -> None:
    with script(holding, tmp_path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        storage = StudyStorage(tmp_path, None)
        done = threading.Event()

        def decide() -> None:
            with storage.lock():
                numbers(storage)
            done.set()

        waiting = threading.Thread(target=decide, daemon=True)
        waiting.start()
        assert not done.wait(0.3)
        holder.send_signal(signal.SIGKILL)
        assert done.wait(5.0)


def test_only_one_thread_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    storage, inside, most = StudyStorage(tmp_path, None), 0, 0

    def decide() -> None:
        nonlocal inside, most
        for _ in range(10):
            with storage.lock():
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=decide) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == 1


def test_a_line_that_a_killed_writer_left_is_cut_off_before_the_next(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s", storage=StudyStorage(tmp_path, None).trials)
    study.ask()
    with (tmp_path / JOURNAL_FILE).open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"gone","study_id":0,"datetime_st')

    for opened in (StudyStorage(tmp_path, None), StudyStorage(tmp_path, None)):
        optuna.load_study(study_name="s", storage=opened.trials).ask()
    study.ask()  # a process that had read the torn line continues too

    assert numbers(StudyStorage(tmp_path, None)) == [0, 1, 2, 3]
    assert all(json.loads(line) for line in (tmp_path / JOURNAL_FILE).read_text().splitlines())


def test_reading_a_journal_with_a_torn_line_does_not_change_it(tmp_path: Path) -> None:
    optuna.create_study(study_name="s", storage=StudyStorage(tmp_path, None).trials).ask()
    with (tmp_path / JOURNAL_FILE).open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    before = (tmp_path / JOURNAL_FILE).read_bytes()

    study = optuna.load_study(study_name="s", storage=StudyStorage(tmp_path, None).trials)

    assert len(study.trials) == 1
    assert (tmp_path / JOURNAL_FILE).read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_processes_that_start_at_once_make_one_storage_and_number_trials_without_a_gap(
    tmp_path: Path, kind: str
) -> None:
    workers = [script(ADD, tmp_path, url_of(kind, tmp_path) or "", 8) for _ in range(4)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors

    assert numbers(StudyStorage(tmp_path, url_of(kind, tmp_path))) == list(range(32))


def test_a_sqlite_storage_is_a_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/trials.db"
    optuna.create_study(study_name="s", storage=StudyStorage(tmp_path, url).trials).ask()

    assert numbers(StudyStorage(tmp_path, url)) == [0]
    assert (tmp_path / "trials.db").is_file()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:sec@ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:sec:ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("postgresql://me:secret@host/db?password=secret", "postgresql://me:***@host/db?password=***"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_storage_that_does_not_open_is_refused_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(SweepError) as refusal:
        StudyStorage(tmp_path, f"sqlite:///{tmp_path}/nowhere/trials.db")
    assert f"sqlite:///{tmp_path}/nowhere/trials.db is not: " in str(refusal.value)

    with pytest.raises(SweepError) as refusal:
        StudyStorage(tmp_path, "nonsense://me:secret@host/db")
    assert str(refusal.value).startswith("A study's storage must be accessible, but nonsense://me:***@host/db is not: ")
    assert "secret" not in str(refusal.value)


def test_a_postgresql_url_gets_the_installed_driver() -> None:
    assert url_of_driver("postgresql://me@host/db") == "postgresql+psycopg://me@host/db"
    assert url_of_driver("postgresql+psycopg://me@host/db") == "postgresql+psycopg://me@host/db"
    assert url_of_driver("sqlite:///a.db") == "sqlite:///a.db"


def test_a_sqlite_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert absolute_url("sqlite:///trials.db") == f"sqlite:///{tmp_path}/trials.db"
    assert absolute_url(f"sqlite:///{tmp_path}/trials.db") == f"sqlite:///{tmp_path}/trials.db"
    assert absolute_url("postgresql://me@host/db") == "postgresql://me@host/db"
    assert absolute_url(None) is None
