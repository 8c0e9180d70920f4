"""Other programs can read a study: Optuna without our lock, and optuna-dashboard."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from ptl_prefix.sweeping.search_space import Choice, Numbers, SearchSpace
from ptl_prefix.sweeping.storage import JOURNAL_FILE, StudyStorage

SPACE = SearchSpace(
    {
        "optimizer.lr": Numbers(low=1e-5, high=1e-2, log=True),
        "method.reparam": Choice(values=["none", "mlp", None], texts=["none", "mlp", "null"]),
    }
)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Two arms, trials of every state, and half a line of a worker that is being killed."""
    storage = StudyStorage(tmp_path, None)
    for arm in ("lora", "prefix"):
        study = optuna.create_study(study_name=f"methods/{arm}", storage=storage.trials)
        for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
            trial = study.ask(fixed_distributions=SPACE.distributions())
            trial.set_user_attr("overrides", SPACE.overrides(trial.params))
            trial.report(2.5, step=10)
            study.tell(trial, 2.0 if state is TrialState.COMPLETE else None, state=state)
        study.ask(fixed_distributions=SPACE.distributions())
    path = tmp_path / JOURNAL_FILE
    with path.open("ab") as file:
        file.write(b'{"op_code":8,"worker_id":"x","tri')
    return path


STATES = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]


def test_optuna_reads_our_journal_and_leaves_it_unchanged(journal: Path) -> None:
    before = journal.read_bytes()

    study = optuna.load_study(study_name="methods/lora", storage=JournalStorage(JournalFileBackend(str(journal))))

    assert [trial.state for trial in study.trials] == STATES
    assert study.best_value == 2.0
    assert study.trials[1].intermediate_values == {10: 2.5}
    assert set(study.trials[0].params) == set(SPACE.dimensions)
    assert journal.read_bytes() == before


@pytest.mark.slow
def test_the_dashboard_shows_our_study(journal: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard", reason="needs optuna-dashboard")
    before = journal.read_bytes()

    with dashboard(journal, tmp_path / "log") as url:
        studies = {study["study_name"]: study for study in ask(f"{url}/api/studies")["study_summaries"]}
        assert set(studies) == {"methods/lora", "methods/prefix"}
        detail = ask(f"{url}/api/studies/{studies['methods/lora']['study_id']}?after=0")

    assert [trial["state"].upper() for trial in detail["trials"]] == "COMPLETE PRUNED FAIL RUNNING".split()
    assert [trial["values"] for trial in detail["trials"][:1]] == [[2.0]]
    assert {param["name"] for param in detail["trials"][0]["params"]} == set(SPACE.dimensions)
    assert journal.read_bytes() == before


@contextmanager
def dashboard(journal: Path, log: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = "from optuna_dashboard._cli import main; main()"
    words = [
        sys.executable,
        "-c",
        start,
        str(journal),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--server",
        "wsgiref",
    ]
    with log.open("wb") as out, subprocess.Popen(words, stdout=out, stderr=out) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 60
            while True:
                try:
                    ask(f"{url}/api/studies")
                    break
                except OSError:
                    assert server.poll() is None and time.monotonic() < deadline, log.read_text()
                    time.sleep(0.2)
            yield url
        finally:
            server.terminate()


def ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=180) as answer:
        return json.load(answer)
