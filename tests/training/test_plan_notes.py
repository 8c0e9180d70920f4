import os
from pathlib import Path
from typing import Any

import pytest
from support.tiny_runs import TinyRuns

from ptl_prefix.training.plan_notes import plan_notes

TEN = 10
"""Batches per epoch."""


def notes(tiny_runs: TinyRuns, **changes: Any) -> list[str]:
    return plan_notes(tiny_runs.plan(**changes), TEN)


def test_an_ordinary_plan_has_none(tiny_runs: TinyRuns) -> None:
    assert notes(tiny_runs) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"trainer__max_steps": 5, "trainer__max_epochs": 3},
            "`trainer.max_steps` (5) ends the run after 0.50 epochs, so `trainer.max_epochs` (3) has no effect; set "
            "trainer.max_steps=-1 to train for 3 epochs.",
        ),
        (
            {"trainer__max_steps": 50, "trainer__max_epochs": 3},
            "`trainer.max_epochs` (3) ends the run, before `trainer.max_steps` (50).",
        ),
        (
            {"optimizer__warmup_steps": 6},
            "`optimizer.warmup_steps` (6) should be less than the 6 steps of the run: the learning rate rises until "
            "the end and never decays.",
        ),
        (
            {"training__select_by": "val/exact_match", "training__select_every": 3},
            "`training.select_by` (val/exact_match) is measured once, at the end, as the run has 2 validation(s) and "
            "`training.select_every` is 3: there is no choice between checkpoints.",
        ),
    ],
)
def test_settings_that_another_setting_overrules_are_named(
    tiny_runs: TinyRuns, changes: dict[str, Any], sentence: str
) -> None:
    assert notes(tiny_runs, **changes) == [sentence]


def test_more_processes_than_cores_are_named(tiny_runs: TinyRuns) -> None:
    too_many = (os.cpu_count() or 1) + 1

    (note,) = notes(tiny_runs, trainer__devices=too_many)

    assert note.startswith(f"`trainer.devices` ({too_many}) is more than the ")


@pytest.mark.parametrize("second", ["same", "copy", "link"])
def test_splits_of_the_same_content_are_named(tiny_runs: TinyRuns, tmp_path: Path, second: str) -> None:
    files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "same", "copy", "link", "other")}
    for name in ("train", "copy"):
        files[name].write_text('{"source": "a", "target": "b"}\n')
    files["other"].write_text('{"source": "c", "target": "d"}\n')
    files["link"].symlink_to(files["train"])
    files["same"] = files["train"]
    plan = tiny_runs.plan()
    task = {"train_file": str(files["train"]), "validation_file": str(files[second]), "test_file": str(files["other"])}
    object.__setattr__(plan, "config", {**plan.config, "task": task})

    (note,) = plan_notes(plan, TEN)

    assert note.startswith("`task.validation_file` has the same content as `task.train_file`")


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"backbone__dtype": "bfloat16"}, "`backbone.dtype` is bfloat16"),
        ({"trainer__precision": "bf16-mixed"}, "`trainer.precision` is bf16-mixed"),
    ],
)
def test_a_dtype_that_the_processor_has_to_imitate_is_named(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], setting: str, is_native: bool
) -> None:
    monkeypatch.setattr("ptl_prefix.training.plan_notes.has_native_bfloat16", lambda _: is_native)

    found = notes(tiny_runs, **changes)

    assert [note.split(",")[0] for note in found] == ([] if is_native else [setting])
