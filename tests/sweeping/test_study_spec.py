"""A specification is read as it was written, or refused with the name of its file."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from ptl_prefix.errors import SweepError
from ptl_prefix.settings import defaults_of
from ptl_prefix.sweeping.search_space import Choice, Numbers, SearchSpace
from ptl_prefix.sweeping.study_spec import STUDY_FILE, Arm, StudySpec
from ptl_prefix.sweeping.sweeper_settings import SweeperSettings

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
        confirm_overrides=[],
        sampler={"_target_": "ptl_prefix.sweeping.samplers.RandomPoints", "seed": 0},
        pruner={"_target_": "ptl_prefix.sweeping.pruners.NoPruner"},
        max_failure_rate=0.5,
        n_jobs=2,
        pack=3,
        threads=None,
        devices=[],
        executor="local",
        num_cpus=None,
        num_gpus=None,
        ray_address="auto",
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
        spec(confirm_top_k=1, confirm_seeds=[1], confirm_overrides=["evaluation.num_examples=null"]),
        spec(n_trials=None, budget_s=60.0, budget_tokens=1e6, direction="maximize", threads=3, devices=[0, 1]),
        spec(executor="ray", num_cpus=2.0, num_gpus=0.5, ray_address="head:6379"),
        spec(arms=[Arm(name="", overrides=[], space=SearchSpace({"a": Choice(values=["1", 1, None, True, "é"],
                 texts=["'1'", "1", "null", "true", "é"])}))]),
    ],
)  # fmt: skip
def test_a_spec_is_read_as_it_was_written(tmp_path: Path, study: StudySpec) -> None:
    study.write(tmp_path)

    assert StudySpec.read(tmp_path) == study


FILE = """\
schema_version: 1
name: small
token: abc123
config_name: train
overrides:
- task.num_train=8
direction: minimize
objective: val/loss
sampler:
  _target_: ptl_prefix.sweeping.samplers.Tpe
  seed: 0
pruner: {}
max_failure_rate: 0.5
workers: 1
pack: 2
threads: 3
devices:
- 0
- 1
warm: true
reuse: false
code: ''
budget:
  trials: null
  seconds: 60.0
  tokens: 1000000.0
confirmation:
  top_k: 2
  seeds:
  - 1
  - 2
arms:
- name: a
  overrides:
  - method=a
  space:
    method.prefix_length:
      low: 1
      high: 8
      step: null
      log: false
      is_int: true
- name: b
  overrides:
  - x=1
  space:
    optimizer.lr:
      low: 0.0001
      high: 0.01
      step: null
      log: true
      is_int: false
"""
"""The format of `study.yaml`, which must not change: existing studies are resumed."""


def test_a_file_is_written_as_it_was_read(tmp_path: Path) -> None:
    (tmp_path / STUDY_FILE).write_text(FILE)
    study = StudySpec.read(tmp_path)
    assert (study.n_jobs, study.budget_s, study.budget_tokens) == (1, 60.0, 1e6)
    assert (study.confirm_top_k, study.confirm_seeds) == (2, [1, 2])

    study.write(tmp_path)

    assert (tmp_path / STUDY_FILE).read_text() == FILE


def test_a_study_from_before_packs_has_none(tmp_path: Path) -> None:
    (tmp_path / STUDY_FILE).write_text(FILE.replace("pack: 2\n", ""))

    assert StudySpec.read(tmp_path).pack == 1


def test_a_study_can_be_resumed_with_other_limits_and_resources_only() -> None:
    stored, given = spec(), spec(token="other", code="0", n_trials=40, n_jobs=8, pack=4, warm=False)

    resumed, differences = stored.resumed_as(given)

    assert differences == []
    assert resumed == replace(stored, n_trials=40, n_jobs=8, pack=4, warm=False)
    assert stored.resumed_as(spec(objective="test/bleu", confirm_top_k=1, arms=TWO_ARMS))[1] == [
        "objective",
        "confirmation",
        "arms",
    ]


def test_confirm_seeds_without_a_confirmation_are_no_difference(tmp_path: Path) -> None:
    spec(confirm_seeds=[1, 2, 3]).write(tmp_path)

    assert StudySpec.read(tmp_path).resumed_as(spec(confirm_seeds=[1, 2, 3]))[1] == []


def test_the_settings_are_the_keys_of_their_config() -> None:
    names = {one.name for one in fields(SweeperSettings)}

    assert names - {"sampler", "pruner"} == set(defaults_of("hydra/sweeper/optuna")) | {"params", "arms"}


def test_tuples_are_written_as_lists(tmp_path: Path) -> None:
    spec(overrides=("seed=1",), devices=(0,)).write(tmp_path)

    read = StudySpec.read(tmp_path)
    assert (read.overrides, read.devices) == (["seed=1"], [0])


def test_a_folder_without_a_specification_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=rf"must be a folder with {STUDY_FILE}, but {tmp_path} has none"):
        StudySpec.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "is not: it is no mapping"),
        ("[1, 2]", "is not: it is no mapping"),
        ("a: [", "is not: while parsing"),
        ("\x80".encode("latin-1"), "is not"),
        ("name: lengths", "it lacks 'schema_version'"),
        ("schema_version: 99", "it has version 99, and this package reads 1"),
    ],
)
def test_an_invalid_file_is_refused_by_its_name(tmp_path: Path, text: str | bytes, fact: str) -> None:
    path = tmp_path / STUDY_FILE
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(SweepError) as refusal:
        StudySpec.read(tmp_path)
    assert str(path) in str(refusal.value)
    assert fact in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("key", ["arms", "budget", "confirmation", "objective", "sampler", "code"])
def test_a_missing_key_is_refused_by_its_name(tmp_path: Path, key: str) -> None:
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
def test_an_arm_has_at_most_its_budget_and_at_most_every_point(
    trials: int | None, space: dict[str, Choice | Numbers], most: int | None
) -> None:
    arm = Arm(name="", overrides=[], space=SearchSpace(space))

    assert spec(arms=[arm], n_trials=trials).max_trials(arm) == most


def test_a_better_objective_is_smaller_times_the_sign() -> None:
    assert spec(direction="minimize").sign * 1.0 < spec(direction="minimize").sign * 2.0
    assert spec(direction="maximize").sign * 2.0 < spec(direction="maximize").sign * 1.0


def test_an_arm_is_found_by_its_name() -> None:
    assert spec(arms=TWO_ARMS).arm("none") is TWO_ARMS[1]
