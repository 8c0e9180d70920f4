"""How a study is shown while it runs."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ptl_prefix.artifacts.event_log import EventLog
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.sweep.progress import _last_step_and_loss, state_line, status_line, status_table
from ptl_prefix.sweeping.summary import ArmSummary, Summary
from ptl_prefix.sweeping.trial import Trial

SPEC: Any = SimpleNamespace(name="methods", objective="val/loss")


def _arm(name: str, num_planned: int | None = 8, **states: int) -> ArmSummary:
    return ArmSummary(
        name=name,
        num_planned=num_planned,
        states=Counter(states),  # type: ignore[arg-type]
        best=[],
        seed_groups=[],
        failures=Counter(),
        failure_reason=None,
        importance={},
        train_s=40.0,
        tokens=0.0,
    )


def _shown(*arms: ArmSummary) -> tuple[list[Any], list[list[Any]]]:
    table = status_table(SPEC, Summary(arms=arms, confirmed=[], num_reused=0, max_confirmations=0), num_workers=2)
    return [column.header for column in table.columns], [list(column.cells) for column in table.columns]


def test_trials_are_counted_by_arm_and_columns_of_zeros_are_left_out() -> None:
    headings, cells = _shown(_arm("lora", finished=3, pruned=1, running=1), _arm("prefix_tuning", finished=2, failed=2))

    assert headings == ["arm", "done", "pruned", "running", "failed", "best val/loss", "left"]
    assert cells[1:5] == [["4/8", "2/8"], ["1", ""], ["1", ""], ["", "2"]]
    # 40 s for 4 trials: 4 more by two workers; for 2 trials: 6 more.
    assert cells[6] == ["20 s", "60 s"]


@pytest.mark.parametrize("state", ["paused", "interrupted"])
def test_interrupted_trials_are_shown_as_paused(state: str) -> None:
    headings, cells = _shown(_arm("", finished=1, **{state: 2}))

    assert headings == ["", "done", "paused", "best val/loss", "left"]
    assert cells[2] == ["2"]


def test_the_status_line_sums_up_all_arms() -> None:
    first, second = _arm("lora", finished=4, running=1), _arm("prefix_tuning", finished=2, running=1)

    assert _line(first, second) == "6 of 16 trials done, 2 running, 80 s left"
    assert _line(first, _arm("prompt_tuning", running=1)) == "4 of 16 trials done, 2 running", "unknown"
    assert _line(first, _arm("adapter", None, finished=3)) == "7 trials done, 1 running", "no number of trials"
    assert _line(first, second, max_confirmations=6).endswith("80 s left; then up to 6 trials confirm the best")
    assert _line(_arm("lora", finished=8)) == "8 of 8 trials done, 0 running, 0 s left"


def _line(*arms: ArmSummary, max_confirmations: int = 0) -> str:
    summary = Summary(arms=arms, confirmed=[], num_reused=0, max_confirmations=max_confirmations)
    return status_line(summary, num_workers=2)


@pytest.mark.parametrize(
    ("running", "is_done", "asked", "expected"),
    [
        (1, False, None, "running"),
        (1, False, "new", "stopping: running trials end, and none starts"),
        (0, False, "now", "stopped: no trial runs. Resume with:\n  ptl-prefix sweep resume 'my studies/a'"),
        (0, False, None, "stopped: no trial runs. Resume with:\n  ptl-prefix sweep resume 'my studies/a'"),
        (0, True, "new", "finished"),
    ],
)
def test_the_state_of_a_study_says_how_to_resume_it(
    running: int, is_done: bool, asked: str | None, expected: str
) -> None:
    scheduler: Any = SimpleNamespace(is_done=is_done, stop_request=asked, folder="my studies/a")
    summary = Summary(arms=[_arm("", running=running)], confirmed=[], num_reused=0, max_confirmations=0)

    assert state_line(scheduler, summary) == expected


@pytest.mark.parametrize(
    ("of_study", "of_log", "expected"),
    [
        ({}, None, ("0", "")),
        ({20: 1.5, 40: 1.25}, None, ("40", "1.25")),  # it runs on another machine, which shares no disk
        ({20: 1.5}, (30, 2.0), ("33", "2")),
        ({20: 1.5, 40: 1.25}, (30, 2.0), ("40", "1.25")),  # it ran here before
    ],
)
def test_the_step_of_a_trial_is_the_newest_that_is_known(
    tmp_path: Path, of_study: dict[int, float], of_log: tuple[int, float] | None, expected: tuple[str, str]
) -> None:
    of_point: dict[str, Any] = {"params": {}, "value": None, "notes": {}}
    trial = Trial(arm="", number=3, trial_id=3, state="running", intermediate_values=of_study, **of_point)
    if of_log is not None:
        folder = RunFolder(tmp_path / "3")
        folder.path.mkdir()
        with EventLog(folder.events) as log:
            log.write("validation", step=of_log[0], **{"val/loss": of_log[1]})
            log.write("train", step=of_log[0] + 3)

    assert _last_step_and_loss(trial, tmp_path) == expected
