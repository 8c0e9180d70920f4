import importlib.util
from typing import Any

import pytest

from ptl_prefix.settings import defaults_of
from ptl_prefix.tracking.tracking import Tracking


@pytest.fixture(autouse=True)
def no_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)


def names(**settings: Any) -> list[str]:
    return [type(sink).__name__ for sink in Tracking(**settings).sinks()]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("auto", ["WandbSink"]), ("none", []), ("csv", ["CsvSink"]), ("tensorboard", ["TensorBoardSink"])],
)
def test_each_choice_has_its_sinks(choice: str, expected: list[str]) -> None:
    assert names(**defaults_of(f"tracking/{choice}")) == expected


def test_several_sinks_can_be_combined() -> None:
    assert names(csv=True, tensorboard=True) == ["CsvSink", "TensorBoardSink", "WandbSink"]


@pytest.mark.parametrize(
    ("setting", "mode", "has_wandb"),
    [
        ("auto", "disabled", False),
        ("online", "disabled", False),
        ("offline", "online", True),
        ("none", "online", False),
        ("auto", "dryrun", True),
    ],
)
def test_wandb_mode_wins_over_all_but_none(
    setting: str, mode: str, has_wandb: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)

    assert names(wandb=setting) == (["WandbSink"] if has_wandb else [])


def test_an_unknown_wandb_mode_is_refused_with_the_valid_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_MODE", "of")

    (problem,) = Tracking().problems()

    assert "'of'" in problem and "offline" in problem and "disabled" in problem


def test_only_rank_0_has_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")

    assert names(csv=True) == []


def test_tensorboard_without_its_library_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    (problem,) = Tracking(tensorboard=True).problems()

    assert "pip install 'ptl-prefix[tensorboard]'" in problem


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"tags": [""]}, "Each of `tracking.tags`"),
        ({"tags": ["fine", "x" * 65]}, "Each of `tracking.tags`"),
        ({"project": "a/b"}, "`tracking.project`"),
        ({"project": "p" * 129}, "`tracking.project`"),
        ({"entity": "two words"}, "`tracking.entity`"),
        ({"group": "g" * 129}, "`tracking.group`"),
        ({"name": "two\nlines"}, "`tracking.name`"),
        ({"job_type": "new\nline"}, "`tracking.job_type`"),
    ],
)
def test_names_that_wandb_refuses_are_found_before_the_run_and_only_where_wandb_is_used(
    settings: dict[str, Any], setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_DISABLED", raising=False)

    (problem,) = Tracking(wandb="offline", **settings).problems()

    assert problem.startswith(setting)
    assert Tracking(wandb="none", **settings).problems() == []
