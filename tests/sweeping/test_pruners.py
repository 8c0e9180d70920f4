"""When a trial is pruned, as tables: values of the other trials, its own values, and the decision."""

import inspect
import math
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.sweeping import pruners
from ptl_prefix.sweeping.promotion import is_promoted
from ptl_prefix.sweeping.pruners import Hyperband, NoPruner, Percentile, Pruner, SuccessiveHalving


def verdict(pruner: Pruner, others: list[list[float]], own: list[float], direction: str = "minimize") -> bool:
    """Whether a trial with these values at steps 1, 2, ... is pruned beside others that finished."""
    study = optuna.create_study(direction=direction, study_name="rows")
    for values in others:
        trial = study.ask()
        for step, value in enumerate(values, 1):
            trial.report(value, step)
        study.tell(trial, values[-1])
    trial = study.ask()
    for step, value in enumerate(own, 1):
        trial.report(value, step)
    (frozen,) = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    return bool(pruner.make(100).prune(study, frozen))


FOUR = [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]


@pytest.mark.parametrize(
    ("settings", "others", "own", "direction", "is_pruned"),
    [
        ({}, FOUR, [3.5], "minimize", True),
        ({}, FOUR, [1.5], "minimize", False),
        ({}, FOUR, [1.5], "maximize", True),
        ({}, FOUR, [3.5], "maximize", False),
        ({"percentile": 25.0}, FOUR, [2.5], "minimize", True),
        ({"percentile": 75.0}, FOUR, [2.5], "minimize", False),
        ({"n_startup_trials": 5}, FOUR, [3.5], "minimize", False),
        ({"n_warmup_steps": 2}, FOUR, [3.5], "minimize", False),
        ({"n_warmup_steps": 2}, FOUR, [3.5, 3.5], "minimize", True),
        ({}, FOUR, [3.5, 1.5], "minimize", False),
        ({}, [], [3.5], "minimize", False),
    ],
)
def test_the_percentile_rule(
    settings: dict[str, Any], others: list[list[float]], own: list[float], direction: str, is_pruned: bool
) -> None:
    pruner = Percentile(**{"percentile": 50.0, "n_startup_trials": 1, "n_warmup_steps": 0, **settings})

    assert verdict(pruner, others, own, direction) is is_pruned


@pytest.mark.parametrize(
    ("others", "own", "direction", "is_pruned"),
    [
        ([[1.0], [1.1], [1.2]], [9.0], "minimize", True),
        ([[1.0], [1.1], [1.2]], [0.5], "minimize", False),
        ([[1.0], [1.1], [1.2]], [0.5], "maximize", True),
        ([[1.0], [1.1], [1.2]], [9.0], "maximize", False),
    ],
)
def test_hyperband_prunes_the_worse_trials_of_a_bracket(
    others: list[list[float]], own: list[float], direction: str, is_pruned: bool
) -> None:
    # One bracket, so that the others are in it: the most steps are fewer than `reduction_factor` times the least.
    study = optuna.create_study(direction=direction, study_name="rows")
    pruner = Hyperband(min_resource=1, reduction_factor=2)
    seen = []
    for values in [*others, own]:
        trial = study.ask()
        trial.report(values[0], 1)
        (frozen,) = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        seen.append(pruner.make(1).prune(study, frozen))
        study.tell(trial, values[0])

    assert seen[-1] is is_pruned


@pytest.mark.parametrize(
    ("min_steps", "reduction_factor", "max_steps", "rungs"),
    [
        (50, 3, 1000, [50, 150, 450]),
        (50, 3, 450, [50, 150]),
        (50, 3, 50, []),
        (1, 2, 9, [1, 2, 4, 8]),
        (10, 4, 5, []),
    ],
)
def test_rungs_are_a_factor_apart_and_below_the_whole(
    min_steps: int, reduction_factor: int, max_steps: int, rungs: list[int]
) -> None:
    pruner = SuccessiveHalving(min_steps=min_steps, reduction_factor=reduction_factor)

    assert pruner.rungs(max_steps) == rungs


@pytest.mark.parametrize(
    ("value", "others", "reduction_factor", "goes_on"),
    [
        (1.0, [], 3, False),  # alone it cannot be known to be among the best third
        (1.0, [2.0], 3, False),
        (1.0, [2.0, 3.0], 3, True),
        (2.5, [2.0, 3.0], 3, False),
        (2.5, [2.0, 3.0, 4.0, 5.0, 6.0], 3, True),
        (4.5, [2.0, 3.0, 4.0, 5.0, 6.0], 3, False),
        (1.0, [2.0], 2, True),
        (2.0, [2.0], 2, True),
    ],
)
def test_one_in_so_many_is_promoted(value: float, others: list[float], reduction_factor: int, goes_on: bool) -> None:
    assert is_promoted(value, others, reduction_factor) is goes_on


@given(values=st.lists(st.integers(), unique=True, max_size=30), reduction_factor=st.integers(2, 5))
def test_of_those_that_reached_a_rung_exactly_one_in_so_many_goes_on(values: list[int], reduction_factor: int) -> None:
    promoted = [
        value
        for place, value in enumerate(values)
        if is_promoted(value, [*values[:place], *values[place + 1 :]], reduction_factor)
    ]

    assert sorted(promoted) == sorted(values)[: len(values) // reduction_factor]


def test_only_successive_halving_pauses_and_only_none_never_prunes() -> None:
    kinds: list[Any] = [NoPruner(), Percentile(), Hyperband(), SuccessiveHalving()]

    assert [kind.prunes for kind in kinds] == [False, True, True, True]
    assert [bool(kind.rungs(1000)) for kind in kinds] == [False, False, False, True]
    assert not verdict(NoPruner(), FOUR, [math.inf])
    # Its pauses are its own; Optuna is never asked for a verdict.
    assert not verdict(SuccessiveHalving(), FOUR, [math.inf])


@pytest.mark.parametrize("name", ["none", "median", "percentile", "hyperband", "successive_halving"])
def test_each_choice_of_the_config_builds_its_pruner(name: str) -> None:
    import yaml

    from ptl_prefix.settings import conf_dir

    node = yaml.safe_load((conf_dir() / f"hydra/sweeper/pruner/{name}.yaml").read_text())
    pruner: Pruner = build(node)

    assert pruner.prunes == (name != "none")
    assert isinstance(pruner.make(100), optuna.pruners.BasePruner)
    assert node["_target_"].rpartition(".")[2] in dict(inspect.getmembers(pruners, inspect.isclass))
