"""A spec is the same for everyone who reads it, or refused with the file's name."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.search_space import Choice, Numbers, SearchSpace
from ptl_prefix.sweeping.study_spec import STUDY_FILE, Arm, StudySpec

LENGTHS = Choice(values=[1, 5, 10], texts=["1", "5", "10"])
RATES = Numbers(low=1e-5, high=1e-2, log=True)


def spec(**changes: object) -> StudySpec:
    whole = StudySpec(
        name="lengths",
        token="abc123",
        config_name="train",
        overrides=["method=prefix_tuning", "backbone.path='models/my base'"],
        arms=[Arm(name="", overrides=[], space=SearchSpace({"method.prefix_length": LENGTHS}))],
        direction="minimize",
        objective="val/loss",
        n_trials=20,
        budget_s=None,
        budget_tokens=None,
        confirm_top_k=0,
        confirm_seeds=[],
        sampler={"_target_": "ptl_prefix.sweeping.samplers.RandomPoints", "seed": 0},
        pruner={"_target_": "ptl_prefix.sweeping.pruners.NoPruner"},
        max_failure_rate=0.5,
        n_jobs=2,
        threads=None,
        devices=[],
        warm=True,
        reuse=True,
        code="f" * 64,
    )
    return replace(whole, **changes)  # type: ignore[arg-type]


TWO_ARMS = [
    Arm(name="mlp", overrides=["method.reparam=mlp"], space=SearchSpace({"optimizer.lr": RATES})),
    Arm(name="none", overrides=["method.reparam=none"], space=SearchSpace({"seed": LENGTHS})),
]


@pytest.mark.parametrize(
    "study",
    [
        spec(),
        spec(arms=TWO_ARMS, confirm_top_k=2, confirm_seeds=[1, 2]),
        spec(n_trials=None, budget_s=60.0, budget_tokens=1e6, direction="maximize", threads=3, devices=[0, 1]),
        spec(arms=[Arm(name="", overrides=[], space=SearchSpace({"a": Choice(values=["1", 1, None, True, "é"],
                 texts=["'1'", "1", "null", "true", "é"])}))]),
    ],
)  # fmt: skip
def test_a_spec_is_read_as_it_was_written(tmp_path: Path, study: StudySpec) -> None:
    study.write(tmp_path)

    assert StudySpec.read(tmp_path) == study


def test_tuples_are_written_as_lists(tmp_path: Path) -> None:
    spec(overrides=("seed=1",), devices=(0,)).write(tmp_path)

    read = StudySpec.read(tmp_path)
    assert (read.overrides, read.devices) == (["seed=1"], [0])


def test_a_folder_without_a_spec_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=rf"must be a folder with {STUDY_FILE}, but {tmp_path} has none"):
        StudySpec.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "is not"),
        ("[1, 2]", "is not"),
        ("a: [", "is not"),
        ("\x80".encode("latin-1"), "is not"),
        ("name: lengths", "schema_version"),
        ("schema_version: 99", "it has version 99, and this package reads 1"),
    ],
)
def test_a_file_that_is_no_spec_is_refused_by_its_name(tmp_path: Path, text: str | bytes, fact: str) -> None:
    path = tmp_path / STUDY_FILE
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(SweepError) as refusal:
        StudySpec.read(tmp_path)
    assert str(path) in str(refusal.value)
    assert fact in str(refusal.value)


@pytest.mark.parametrize("key", ["arms", "budget", "confirmation", "objective", "sampler", "code"])
def test_a_spec_that_lacks_something_is_refused(tmp_path: Path, key: str) -> None:
    spec().write(tmp_path)
    document = yaml.safe_load((tmp_path / STUDY_FILE).read_text())
    (tmp_path / STUDY_FILE).write_text(yaml.safe_dump({one: document[one] for one in document if one != key}))

    with pytest.raises(SweepError, match=key):
        StudySpec.read(tmp_path)


def test_a_spec_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    spec().write(tmp_path)
    with (tmp_path / STUDY_FILE).open("a") as file:
        file.write("colour: red\n")

    with pytest.raises(SweepError, match="colour"):
        StudySpec.read(tmp_path)


@pytest.mark.parametrize(
    ("trials", "space", "most"),
    [
        (20, {"a": LENGTHS}, 3),
        (2, {"a": LENGTHS}, 2),
        (None, {"a": LENGTHS}, 3),
        (20, {"lr": RATES}, 20),
        (None, {"lr": RATES}, None),
    ],
)
def test_an_arm_has_its_budget_or_every_point_there_is(
    trials: int | None, space: dict[str, Choice | Numbers], most: int | None
) -> None:
    arm = Arm(name="", overrides=[], space=SearchSpace(space))

    assert spec(arms=[arm], n_trials=trials).max_trials(arm) == most


def test_better_is_less_after_the_sign() -> None:
    assert spec(direction="minimize").sign * 1.0 < spec(direction="minimize").sign * 2.0
    assert spec(direction="maximize").sign * 2.0 < spec(direction="maximize").sign * 1.0


def test_an_arm_is_found_by_its_name() -> None:
    assert spec(arms=TWO_ARMS).arm("none") is TWO_ARMS[1]
