"""A trial is a snapshot of what is stored of it."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from support.study_schedulers import make_scheduler, make_store, next_job, spec

from ptl_prefix.sweeping.job import Outcome
from ptl_prefix.sweeping.liveness import Liveness
from ptl_prefix.sweeping.trial import FAILURES


def test_a_trial_does_not_change_after_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = make_scheduler(tmp_path, spec())
    job = next_job(scheduler)

    scheduler.report(job, 10, 2.5)
    monkeypatch.setattr(Liveness, "is_alive", lambda *_: False)

    assert (job.trial.state, job.trial.intermediate_values) == ("running", {})
    reloaded = make_store(tmp_path, spec()).reload(job.trial)
    assert (reloaded.state, reloaded.intermediate_values) == ("interrupted", {10: 2.5})
    with pytest.raises(FrozenInstanceError):
        job.trial.state = "failed"  # type: ignore[misc]


def test_failures_of_earlier_versions_have_todays_names(tmp_path: Path) -> None:
    scheduler = make_scheduler(tmp_path, spec(max_failure_rate=1.0))
    for failure in ("not a number", "non-finite loss"):
        scheduler.close(next_job(scheduler), Outcome("failed", failure=failure, error=f"NonFiniteLossError: {failure}"))

    failures = [trial.notes["failure"] for trial in scheduler.trials("")]

    assert failures == ["non-finite loss", "non-finite loss"]
    assert set(failures) <= set(FAILURES)
