"""A command line becomes a spec, or is refused with every mistake at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ptl_prefix.commands.config.arguments import HydraFlags
from ptl_prefix.commands.config.verbs import Verb
from ptl_prefix.commands.sweep.choose_sweeper import choose_sweeper
from ptl_prefix.commands.sweep.parse_study import ParsedStudy, parse_study
from ptl_prefix.errors import ConfigError
from ptl_prefix.sweeping.search_space import Choice, Dimension, Numbers

SWEEP = HydraFlags((("--multirun", None),))
OPTUNA = ("hydra/sweeper=optuna", "hydra.sweeper.study_name=s")

pytestmark = pytest.mark.usefixtures("small_conf")


def parsed(verb: Verb, *overrides: str) -> ParsedStudy:
    return parse_study(verb, ("backbone.path=b", *OPTUNA, *overrides), SWEEP)


def space(verb: Verb, *overrides: str) -> Mapping[str, Dimension]:
    (arm,) = parsed(verb, *overrides).spec.arms
    return arm.space.dimensions


def written(small_conf: Path, **sweeper: Any) -> str:
    """A spec in a file, as in `sweeps/`, where keys may have dots; and what chooses it."""
    text = yaml.safe_dump({"hydra": {"sweeper": sweeper}})
    (small_conf / "experiment/spec.yaml").write_text(f"# @package _global_\n{text}")
    return "experiment=spec"


def mistakes(verb: Verb, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parsed(verb, *overrides)
    return caught.value.mistakes


@pytest.fixture
def weighed(small_conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that need not be whole, at the root of the config."""
    from dataclasses import make_dataclass

    from ptl_prefix.commands.config import verbs

    with (small_conf / "train.yaml").open("a") as file:
        file.write("weight: 0.5\n")
    fields = [("weight", float)]
    weighed = make_dataclass("TrainSettings", fields, bases=(verbs.TrainSettings,), frozen=True, kw_only=True)
    monkeypatch.setattr(Verb, "settings", property(lambda verb: weighed), raising=False)


def test_every_mistake_is_named_at_once(verb: Verb) -> None:
    assert mistakes(verb, "task.count=choice(1,1)", "seed=interval(2,1)") == (
        "`task.count`: a study asks for each value once, but 1 and 1 are the same.",
        "`seed`: a range must go from the less to the greater, but goes from 2.0 to 1.0.",
    )
    assert mistakes(verb, "task.count=0,x", "backbone.pth=3") == (
        "`backbone.pth` is not a setting; did you mean backbone.path?",
        "`task.count` must be >= 1, but is 0.",
        "`task.count` must be int, but is 'x'.",
    )


def test_all_listed_values_and_both_ends_of_a_range_are_checked(verb: Verb) -> None:
    assert mistakes(verb, "task.count=int(interval(0,9))") == ("`task.count` must be >= 1, but is 0.",)
    assert mistakes(verb, "seed=int(interval(0,9999999999))") == ("`seed` must be <= 4294967295, but is 9999999999.",)
    assert mistakes(verb, "task=letters,nothing") == ("`task` must be one of digits, letters, but is 'nothing'.",)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["hydra.sweeper.n_trials=0"], "`hydra.sweeper.n_trials` must be >= 1, but is 0."),
        (["hydra.sweeper.direction=up"], "`hydra.sweeper.direction` must be 'minimize' or 'maximize', but is 'up'."),
        (["hydra.sweeper.sampler.seed=-1"], "`hydra.sweeper.sampler.seed` must be >= 0, but is -1."),
        (
            ["hydra.sweeper.objective=test/bleu"],
            "`hydra.sweeper.objective` must be a number that a run has at its end (val/loss, test/exact_match, "
            "val/exact_match), but is 'test/bleu'.",
        ),
        (
            ["hydra.sweeper.objective=test/exact_match", "hydra/sweeper/pruner=median"],
            "Pruning needs `hydra.sweeper.objective` to be val/loss, the one number that a run has on its way, "
            "but it is test/exact_match.",
        ),
        (
            ["hydra.sweeper.study_name=../s"],
            "`hydra.sweeper.study_name` must be a folder's name of the characters A-Z a-z 0-9 . _ -, but is '../s'.",
        ),
        (
            ["hydra.sweeper.storage=postgres://me:secret@host/db"],
            "`hydra.sweeper.storage` must be null, sqlite:///PATH or postgresql://..., but is "
            "'postgres://me:***@host/db'.",
        ),
        (
            ["hydra.sweeper.confirm_top_k=1", "hydra.sweeper.confirm_seeds=[]"],
            "`hydra.sweeper.confirm_seeds` must name at least one seed for `confirm_top_k`.",
        ),
        (
            ["dry_run=true"],
            "`dry_run` shows a single run; `ptl-prefix sweep plan` shows what a study will take.",
        ),
        (
            ["hydra.run.dir=here"],
            "`hydra.run.dir` is not read with -m; the jobs of a sweep are in `hydra.sweep.dir`.",
        ),
    ],
)
def test_settings_that_make_no_study_are_refused(verb: Verb, overrides: list[str], sentence: str) -> None:
    assert mistakes(verb, "task.count=1,2", *overrides) == (sentence,)


def test_a_study_needs_something_to_search(verb: Verb) -> None:
    assert mistakes(verb) == (
        "A sweep must have something to search, but nothing has several values; write -m key=1,2 or "
        "`hydra.sweeper.params`.",
    )


def test_points_of_an_interval_cannot_be_taken_in_turn(verb: Verb) -> None:
    assert mistakes(verb, "hydra/sweeper=grid", "task.count=1,2", "backbone.path=interval(0,1)") == (
        "`backbone.path` must be str, but is 0.0.",
        "`backbone.path` must be str, but is 1.0.",
    )


def test_a_grid_over_an_interval_never_ends_and_is_refused(verb: Verb, weighed: None) -> None:
    assert mistakes(verb, "hydra/sweeper=grid", "weight=interval(0,1)") == (
        "The sampler takes points in turn, but the space has an interval, or more than 10,000 points; take "
        "tpe or random.",
        "The search must end, but has neither n_trials nor a budget.",
    )


NO_PARAMETER = "A parameter of a sweep must be choice(...), interval(...), range(...) or a,b, but is"


@pytest.mark.parametrize(
    ("sweeper", "sentence"),
    [
        ({"params": {"task.name": "a"}}, f"{NO_PARAMETER} task.name=a."),
        ({"params": {"task.count": 3}}, f"{NO_PARAMETER} task.count=3."),
        ({"params": {"task.name": "choice(a"}}, f"{NO_PARAMETER} task.name='choice(a'."),
        (
            {"arms": {"confirm": {}}},
            "`hydra.sweeper.arms.confirm` must have a name that can be a folder's, and not be `confirm`.",
        ),
        (
            {"arms": {"a": {"parms": {}}}},
            "`hydra.sweeper.arms.a` must be {overrides: [...], params: {...}}, but is {'parms': {}}.",
        ),
        ({"arms": {"a": {"overrides": [1]}}}, "`hydra.sweeper.arms.a`.overrides must be a list of key=value."),
        (
            {"arms": {"a": {}}, "params": {"seed": "choice(1,2)"}},
            "`hydra.sweeper.params` must be empty beside `arms`, which have params of their own.",
        ),
    ],
)
def test_parameters_and_arms_that_are_none_are_refused(
    verb: Verb, small_conf: Path, sweeper: dict[str, Any], sentence: str
) -> None:
    assert mistakes(verb, "seed=0,1", written(small_conf, **sweeper)) == (sentence,)


def test_a_file_says_what_is_searched(verb: Verb, small_conf: Path) -> None:
    spec = written(small_conf, params={"task.count": "int(tag(log, interval(1, 26)))", "task.name": "a, b"})

    assert space(verb, spec) == {
        "task.count": Numbers(low=1, high=26, log=True, is_int=True),
        "task.name": Choice(values=["a", "b"], texts=["a", "b"]),
    }


ARMS = {"few": {"overrides": ["task=digits"], "params": {"task.count": "choice(1,2)"}}, "many": {}}


def test_arms_have_spaces_of_their_own_and_what_the_command_line_searches(verb: Verb, small_conf: Path) -> None:
    spec = parsed(verb, written(small_conf, arms=ARMS), "seed=0,1").spec

    assert [(arm.name, list(arm.overrides), list(arm.space.dimensions)) for arm in spec.arms] == [
        ("few", ["task=digits"], ["task.count", "seed"]),
        ("many", [], ["seed"]),
    ]
    assert spec.overrides == ["backbone.path=b", "hydra/sweeper=optuna", "experiment=spec"]


def test_the_command_line_changes_what_an_arm_searches(verb: Verb, small_conf: Path) -> None:
    few, _ = parsed(verb, written(small_conf, arms=ARMS), "task.count=5,6").spec.arms

    assert few.space.dimensions["task.count"] == Choice(values=[5, 6], texts=["5", "6"])


def test_a_mistake_in_one_arm_is_found(verb: Verb, small_conf: Path) -> None:
    arms = {**ARMS, "none": {"params": {"task.count": "choice(1,0)"}}}

    assert mistakes(verb, written(small_conf, arms=arms)) == ("`task.count` must be >= 1, but is 0.",)


def test_a_spec_holds_what_was_asked_and_nothing_of_hydra(verb: Verb) -> None:
    found = parsed(verb, "task.count=1,2", "seed=3", "hydra.sweeper.n_jobs=2", "hydra.sweeper.storage=sqlite:///t.db")
    spec = found.spec

    assert found.folder == Path("outputs/sweeps/s")
    assert found.storage == f"sqlite:///{Path.cwd()}/t.db"
    assert found.first_config["task"]["count"] == 1
    assert (spec.name, spec.config_name, spec.n_jobs) == ("s", "train", 2)
    assert spec.overrides == ["backbone.path=b", "hydra/sweeper=optuna", "seed=3"]
    assert spec.sampler["_target_"].endswith(".Tpe")
    assert parsed(verb, "task.count=1,2").spec.token != spec.token


def test_a_plain_grid_is_ours_and_hydras_own_sweeper_is_kept_when_asked_for(verb: Verb) -> None:
    sweeper = choose_sweeper(verb, ("backbone.path=b", "seed=1,2"), SWEEP)
    node, added = sweeper.hydra, sweeper.overrides
    assert node is not None
    assert node.sweeper["_target_"].endswith("StudySweeper")
    assert added == ("hydra/sweeper=grid",)

    sweeper = choose_sweeper(verb, ("backbone.path=b", "seed=1,2", "hydra/sweeper=basic"), SWEEP)
    node, added = sweeper.hydra, sweeper.overrides
    assert node is not None
    assert node.sweeper["_target_"].endswith("BasicSweeper")
    assert added == ()


def test_a_setting_that_only_a_searched_choice_has_is_kept_for_it(verb: Verb, small_conf: Path) -> None:
    for name in ("one", "two"):
        text = "# @package _global_\ntask:\n  _target_: ptl_prefix.stand_ins.Other\n  extra: 1\n"
        (small_conf / f"experiment/{name}.yaml").write_text(text)
    stand_in_with_extra()

    found = parse_study(verb, ("backbone.path=b", "experiment=one,two", "task.extra=5"), SWEEP)

    assert found.first_config["task"]["extra"] == 5
    assert found.spec.overrides == ["backbone.path=b", "++task.extra=5"]
    node = choose_sweeper(verb, ("backbone.path=b", "experiment=one,two", "task.extra=5"), SWEEP).hydra
    assert node is not None


def test_what_does_not_compose_is_said_as_ever(verb: Verb) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_study(verb, ("backbone.path=b", "tsk=x", "task.count=interval(1,2)"), SWEEP)

    assert caught.value.mistakes[0] == "`tsk` is not a setting; did you mean task?"
    assert not any("cannot be an interval" in mistake for mistake in caught.value.mistakes)


def stand_in_with_extra() -> None:
    """A task with a setting more, where the stand-ins are."""
    import sys

    stand_ins = sys.modules["ptl_prefix.stand_ins"]

    class Other(stand_ins.Letters):  # type: ignore[name-defined,misc]
        def __init__(self, *, name: str, count: int, data_dir: str | None, extra: int) -> None:
            super().__init__(name=name, count=count, data_dir=data_dir)

    Other.__module__ = "ptl_prefix.stand_ins"
    stand_ins.Other = Other  # type: ignore[attr-defined]


def test_every_shipped_spec_is_one(monkeypatch: pytest.MonkeyPatch, small_conf: Path) -> None:
    from ptl_prefix import settings

    shipped = settings.sweeps_dir()
    for path in sorted(shipped.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        content: dict[str, Any] = yaml.safe_load(text)
        assert text.startswith("# @package _global_\n# "), path
        assert content["hydra"]["sweeper"]["study_name"] == path.stem, path
