"""A command line is parsed into a study, or refused with every mistake at once."""

import importlib.util
import json
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import yaml

from ptl_prefix.commands.config.arguments import HydraFlags
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.sweep import server_checks
from ptl_prefix.commands.sweep.choose_sweeper import choose_sweeper
from ptl_prefix.commands.sweep.parse_study import parse_study
from ptl_prefix.commands.sweep.parsed_study import ParsedStudy
from ptl_prefix.errors import ConfigError
from ptl_prefix.sweeping.search_space import Choice, Dimension, Numbers
from ptl_prefix.sweeping.server_calls import NoAnswerError
from ptl_prefix.sweeping.trial_processes import TrialServer

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


def assert_says(mistake: str, *facts: str) -> None:
    """The mistake's sentence names each of these settings and values."""
    assert [fact for fact in facts if fact not in mistake] == [], mistake


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
    differ, order = mistakes(verb, "task.count=choice(1,1)", "seed=interval(2,1)")
    assert_says(differ, "`task.count`", "1 and 1")
    assert_says(order, "`seed`", "2.0 to 1.0")
    name, space = mistakes(verb, "task.count=choice(1,1)", "hydra.sweeper.study_name=../s")
    assert_says(name, "`hydra.sweeper.study_name`", "'../s'")
    assert_says(space, "`task.count`", "1 and 1")
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
    ("overrides", "facts"),
    [
        (["hydra.sweeper.n_trials=0"], ["`hydra.sweeper.n_trials` must be >= 1", "0"]),
        (["hydra.sweeper.direction=up"], ["`hydra.sweeper.direction`", "'minimize', 'maximize' or null", "'up'"]),
        (["hydra.sweeper.sampler.seed=-1"], ["`hydra.sweeper.sampler.seed` must be >= 0", "-1"]),
        (
            ["hydra.sweeper.objective=test/bleu"],
            ["`hydra.sweeper.objective`", "(val/loss, test/exact_match)", "'test/bleu'"],
        ),
        (
            ["hydra.sweeper.objective=test/exact_match", "hydra/sweeper/pruner=median"],
            ["`hydra.sweeper.objective` must be val/loss", "'test/exact_match'"],
        ),
        # Such a metric is not computed where the task has a test split: every trial would fail after its training.
        (
            ["hydra.sweeper.objective=val/exact_match"],
            ["`hydra.sweeper.objective`", "(val/loss, test/exact_match)", "; training.select_by=val/exact_match"],
        ),
        (
            ["hydra.sweeper.objective=test/exact_match", "hydra.sweeper.direction=minimize"],
            ["`hydra.sweeper.direction` must be maximize for test/exact_match, but is minimize; leave it out"],
        ),
        (["hydra.sweeper.direction=maximize"], ["`hydra.sweeper.direction` must be minimize for val/loss"]),
        (["hydra.sweeper.direction=[minimize,maximize]"], ["`hydra.sweeper.direction` must be one direction"]),
        (["+hydra.sweeper.custom_search_space=x"], ["`hydra.sweeper.custom_search_space` is not supported"]),
        (["hydra.sweeper.custom_search_space=x"], ["`hydra.sweeper.custom_search_space` is not supported"]),
        (["hydra.sweeper.search_space=x"], ["is not supported: the search space is `hydra.sweeper.params`"]),
        (["hydra/sweeper/sampler=nsgaii"], ["`hydra/sweeper/sampler=nsgaii` is not supported: a study searches one"]),
        (["hydra/sweeper/sampler=bruteforce"], ["it is called hydra/sweeper/sampler=exhaustive here"]),
        (["hydra/sweeper/sampler=tpee"], ["`hydra/sweeper/sampler` must be one of", "did you mean tpe?"]),
        (["hydra.sweeper.study_name=../s"], ["`hydra.sweeper.study_name`", "A-Z a-z 0-9 . _ -", "'../s'"]),
        (
            ["hydra.sweeper.storage=postgres://me:secret@host/db"],
            ["`hydra.sweeper.storage`", "sqlite:///PATH or postgresql://...", "'postgres://me:***@host/db'"],
        ),
        (
            ["hydra.sweeper.confirm_top_k=1", "hydra.sweeper.confirm_seeds=[]"],
            ["`hydra.sweeper.confirm_seeds`", "at least one seed", "`confirm_top_k` is 1"],
        ),
        (
            ["hydra.sweeper.confirm_overrides=['seed=3']"],
            ["`hydra.sweeper.confirm_overrides`", "without `seed`", "'seed=3'"],
        ),
        (["hydra.sweeper.confirm_overrides=[weight]"], ["`hydra.sweeper.confirm_overrides`", "key=value", "'weight'"]),
        (["hydra.sweeper.confirm_overrides=['task.count=3']"], ["leave what was searched", "`task.count`"]),
        (
            ["hydra.sweeper.confirm_top_k=1", "hydra.sweeper.confirm_overrides=['backbone.path=3']"],
            ["`backbone.path` must be str, but is 3"],
        ),
        (["dry_run=true"], ["`dry_run` must be false", "`ptl-prefix sweep plan`"]),
        (["hydra.sweeper.executor=dask"], ["`hydra.sweeper.executor` must be 'local', 'ray', 'slurm'", "'dask'"]),
        (
            ["hydra.sweeper.executor=ray", "hydra.sweeper.devices=[0,1]"],
            ["`hydra.sweeper.devices` must be empty with executor=ray", "[0, 1]", "hydra.sweeper.num_gpus"],
        ),
        (
            ["hydra.sweeper.executor=ray", "hydra.sweeper.ray_address=head"],
            ["`hydra.sweeper.ray_address` must be auto, local or HOST:PORT", "'head'"],
        ),
        (
            ["hydra.sweeper.executor=ray", "hydra.sweeper.num_gpus=1.5"],
            ["`hydra.sweeper.num_gpus` must be whole, or below 1 with executor=ray", "1.5"],
        ),
        (
            ["hydra.sweeper.executor=slurm", "hydra.sweeper.num_gpus=0.5"],
            ["`hydra.sweeper.num_gpus` must be whole", "0.5", "executor=slurm"],
        ),
        (
            ["hydra.sweeper.executor=kubernetes", "hydra.sweeper.num_cpus=0.5"],
            ["`hydra.sweeper.num_cpus` must be whole with executor=kubernetes", "0.5"],
        ),
        (["hydra.run.dir=here"], ["`hydra.run.dir` is not read with -m", "`hydra.sweep.dir`"]),
    ],
)
def test_invalid_settings_are_refused(verb: Verb, overrides: list[str], facts: list[str]) -> None:
    (mistake,) = mistakes(verb, "task.count=1,2", *overrides)

    assert_says(mistake, *facts)


def test_ray_that_is_not_installed_is_named_with_what_to_install(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))

    (mistake,) = mistakes(verb, "task.count=1,2", "hydra.sweeper.executor=ray")

    assert_says(mistake, "`hydra.sweeper.executor` is ray", "pip install 'ptl-prefix[ray]'")


def test_every_mistake_in_what_an_executor_needs_is_named_at_once(verb: Verb) -> None:
    of_ray = ("devices=[0]", "ray_address=head", "num_gpus=1.5", "study_name=../s")

    found = mistakes(verb, "task.count=1,2", "hydra.sweeper.executor=ray", *(f"hydra.sweeper.{one}" for one in of_ray))

    assert [text.split("`")[1].removeprefix("hydra.sweeper.") for text in found] == [
        "study_name",
        "devices",
        "ray_address",
        "num_gpus",
    ]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'ptl-prefix[ray]'")
@pytest.mark.parametrize("fits", ["num_gpus=0.25", "num_gpus=2", "num_cpus=0.5", "ray_address=head:6379"])
def test_what_ray_takes_is_accepted(verb: Verb, fits: str) -> None:
    assert parsed(verb, "task.count=1,2", "hydra.sweeper.executor=ray", f"hydra.sweeper.{fits}").spec.executor == "ray"


@pytest.mark.parametrize(("objective", "direction"), [("val/loss", "minimize"), ("test/exact_match", "maximize")])
def test_the_direction_is_that_of_the_metric_and_a_search_on_the_test_split_is_named(
    verb: Verb, objective: str, direction: str
) -> None:
    study = parsed(verb, "task.count=1,2", f"hydra.sweeper.objective={objective}")

    assert study.spec.direction == direction
    assert [note for note in study.notes if f"`hydra.sweeper.objective` is {objective}" in note] == list(study.notes)
    assert len(study.notes) == objective.startswith("test/")


def test_a_study_needs_something_to_search(verb: Verb) -> None:
    (mistake,) = mistakes(verb)

    assert_says(mistake, "-m key=1,2", "`hydra.sweeper.params`")


def test_the_ends_of_an_interval_are_checked_in_a_grid(verb: Verb) -> None:
    assert mistakes(verb, "hydra/sweeper=grid", "task.count=1,2", "backbone.path=interval(0,1)") == (
        "`backbone.path` must be str, but is 0.0.",
        "`backbone.path` must be str, but is 1.0.",
    )


def test_a_grid_over_an_interval_is_refused(verb: Verb, weighed: None) -> None:
    listing, end = mistakes(verb, "hydra/sweeper=grid", "weight=interval(0,1)")

    assert_says(listing, "sampler", "interval", "10,000 points", "hydra/sweeper=optuna", "tpe or random")
    assert_says(end, "`hydra.sweeper.n_trials`", "`budget_s`", "`budget_tokens`")


NO_PARAMETER = "must be choice(...), interval(...), range(...) or a,b, but is"


@pytest.mark.parametrize(
    ("sweeper", "facts"),
    [
        ({"params": {"task.name": "a"}}, [f"{NO_PARAMETER} task.name=a."]),
        ({"params": {"task.count": 3}}, [f"{NO_PARAMETER} task.count=3."]),
        ({"params": {"task.name": "choice(a"}}, [f"{NO_PARAMETER} task.name='choice(a'."]),
        ({"arms": {"confirm": {}}}, ["`hydra.sweeper.arms.confirm`", "not `confirm`"]),
        ({"arms": {"a": 3}}, ["`hydra.sweeper.arms.a`", "{overrides: [...], params: {...}}", "3"]),
        ({"arms": {"a": {"parms": {}}}}, ["`hydra.sweeper.arms.a`", "{overrides: [...], params: {...}}", "'parms'"]),
        ({"arms": {"a": {"overrides": [1]}}}, ["`hydra.sweeper.arms.a.overrides`", "key=value", "[1]"]),
        ({"arms": {"a": {}}, "params": {"seed": "choice(1,2)"}}, ["`hydra.sweeper.params` must be empty", "`arms`"]),
    ],
)
def test_invalid_parameters_and_arms_are_refused(
    verb: Verb, small_conf: Path, sweeper: dict[str, Any], facts: list[str]
) -> None:
    (mistake,) = mistakes(verb, "seed=0,1", written(small_conf, **sweeper))

    assert_says(mistake, *facts)


def test_a_file_defines_the_search_space(verb: Verb, small_conf: Path) -> None:
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


def test_a_specification_has_the_overrides_of_the_trials_without_those_of_hydra(verb: Verb) -> None:
    found = parsed(verb, "task.count=1,2", "seed=3", "hydra.sweeper.n_jobs=2", "hydra.sweeper.storage=sqlite:///t.db")
    spec = found.spec

    assert found.folder == Path("outputs/sweeps/s")
    assert found.storage == f"sqlite:///{Path.cwd()}/t.db"
    assert found.first_config["task"]["count"] == 1
    assert (spec.name, spec.config_name, spec.n_jobs) == ("s", "train", 2)
    assert spec.overrides == ["backbone.path=b", "hydra/sweeper=optuna", "seed=3"]
    assert spec.sampler["_target_"].endswith(".Tpe")
    assert parsed(verb, "task.count=1,2").spec.token != spec.token


def test_a_plain_grid_uses_our_sweeper_unless_hydras_is_chosen(verb: Verb) -> None:
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


def test_a_config_that_does_not_compose_is_refused_as_for_a_single_run(verb: Verb) -> None:
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


def test_every_predefined_study_has_a_header_and_its_own_name(
    monkeypatch: pytest.MonkeyPatch, small_conf: Path
) -> None:
    from ptl_prefix import settings

    shipped = settings.sweeps_dir()
    for path in sorted(shipped.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        content: dict[str, Any] = yaml.safe_load(text)
        assert text.startswith("# @package _global_\n# "), path
        assert content["hydra"]["sweeper"]["study_name"] == path.stem, path


class PlayedServer(TrialServer):
    """Answers the calls of a study in this process, when the test says so.

    Args:
        is_lost: Whether no call is answered.
    """

    def __init__(self, *, is_lost: bool = False) -> None:
        super().__init__("", warm=True)
        self._is_lost = is_lost
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def call(self, function: str, arguments: Mapping[str, Any]) -> "Future[Any]":
        self.calls.append((function, json.loads(json.dumps(arguments))))
        answer: Future[Any] = _Answer(self, len(self.calls) - 1)
        return answer

    def answer(self, number: int) -> Any:
        """What the real server would answer."""
        if self._is_lost:
            raise NoAnswerError
        function, arguments = self.calls[number]
        return getattr(server_checks, function)(**arguments)


class _Answer(Future[Any]):
    def __init__(self, server: PlayedServer, number: int) -> None:
        super().__init__()
        self._server, self._number = server, number

    def result(self, timeout: float | None = None) -> Any:
        return self._server.answer(self._number)


MISTAKEN = ("task.count=choice(1,0,3)", "task.name=choice(letters,forbidden)", "seed=1,two")


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_server_finds_the_mistakes_that_are_found_here(
    verb: Verb, monkeypatch: pytest.MonkeyPatch, *, is_lost: bool
) -> None:
    monkeypatch.setattr(server_checks, "VERBS", {verb.name: verb})
    here = mistakes(verb, *MISTAKEN)
    server = PlayedServer(is_lost=is_lost)

    with pytest.raises(ConfigError) as caught:
        parse_study(verb, ("backbone.path=b", *OPTUNA, *MISTAKEN), SWEEP, server=server)

    assert caught.value.mistakes == here
    assert len(here) == 3
    assert {function for function, _ in server.calls} == {"find_config_problems"}


def test_all_configs_are_composed_before_the_first_answer_is_waited_for(
    verb: Verb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_checks, "VERBS", {verb.name: verb})
    server = PlayedServer()
    called_before_answers: list[int] = []
    answer = server.answer
    monkeypatch.setattr(server, "answer", lambda n: (called_before_answers.append(len(server.calls)), answer(n))[1])

    parse_study(verb, ("backbone.path=b", *OPTUNA, "task.count=choice(1,2,3)"), SWEEP, server=server)

    assert called_before_answers[0] == 3
    assert [arguments["config"]["task"]["count"] for name, arguments in server.calls[:3]] == [1, 2, 3]
    assert server.calls[3][0] == "find_objective_problems"
