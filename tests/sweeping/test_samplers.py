"""Each sampler asks for legal points, other ones for other draws, and says by name what it lacks."""

import importlib.util
import inspect
from typing import Any

import optuna
import pytest

from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.sweeping import samplers
from ptl_prefix.sweeping.samplers import CmaEs, Exhaustive, Gp, Grid, RandomPoints, Sampler, Tpe
from ptl_prefix.sweeping.search_space import Choice, Numbers, Point, SearchSpace

SPACE = SearchSpace(
    {
        "optimizer.lr": Numbers(low=1e-5, high=1e-2, log=True),
        "method.prefix_length": Numbers(low=1, high=40, is_int=True),
        "method.prefix_dropout": Numbers(low=0.0, high=0.5, step=0.1),
        "method.reparam": Choice(values=["none", "mlp", None, True], texts=["none", "mlp", "null", "true"]),
    }
)
DRAWING = [
    pytest.param(Tpe(seed=0, n_startup_trials=2), id="tpe"),
    pytest.param(Tpe(seed=0, n_startup_trials=2, multivariate=True), id="multivariate tpe"),
    pytest.param(RandomPoints(seed=0), id="random"),
    pytest.param(
        Gp(seed=0, n_startup_trials=2),
        id="gp",
        marks=pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="needs scipy, the extra [gp]"),
    ),
    pytest.param(
        CmaEs(seed=0, n_startup_trials=2),
        id="cmaes",
        marks=pytest.mark.skipif(importlib.util.find_spec("cmaes") is None, reason="needs cmaes, the extra [cmaes]"),
    ),
]


def points(sampler: Sampler, count: int, *, first_draw: int = 0) -> list[Point]:
    """As a scheduler asks: the study lasts, the sampler is made anew for each point."""
    study = optuna.create_study()
    for draw in range(first_draw, first_draw + count):
        study.sampler = sampler.make(draw)
        trial = study.ask(fixed_distributions=SPACE.distributions())
        study.tell(trial, trial.params["optimizer.lr"] * trial.params["method.prefix_length"])
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("sampler", DRAWING)
def test_every_point_is_valid(sampler: Sampler) -> None:
    for point in points(sampler, 6):
        assert 1e-5 <= point["optimizer.lr"] <= 1e-2  # type: ignore[operator]
        assert point["method.prefix_length"] in range(1, 41)
        assert (
            SPACE.dimensions["method.prefix_dropout"].text(point["method.prefix_dropout"]) in "0.0 0.1 0.2 0.3 0.4 0.5"
        )
        assert point["method.reparam"] in ("none", "mlp", None, True)
        assert len(SPACE.overrides(point)) == 4


@pytest.mark.parametrize("sampler", DRAWING)
def test_a_point_depends_on_the_draw_alone(sampler: Sampler) -> None:
    # Neither workers side by side nor the arms of one study may draw the same numbers.
    assert points(sampler, 1) == points(sampler, 1)
    drawn = [tuple(points(sampler, 1, first_draw=draw)[0].values()) for draw in (0, 1, 2, 100_003, 200_006)]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(("kind", "settings"), [(Tpe, {}), (RandomPoints, {}), (Gp, {}), (CmaEs, {})])
def test_another_seed_draws_another_first_point(kind: Any, settings: dict[str, Any]) -> None:
    if kind is CmaEs:
        pytest.importorskip("cmaes", reason="needs cmaes, the extra [cmaes]")
    assert points(kind(seed=0, **settings), 1) != points(kind(seed=1, **settings), 1)


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes", "random", "grid", "exhaustive"])
def test_each_choice_of_the_config_builds_its_sampler(name: str) -> None:
    from ptl_prefix.settings import defaults_of

    (kind,) = (
        one
        for _, one in inspect.getmembers(samplers, inspect.isclass)
        if one.__module__ == samplers.__name__ and one.__name__.lower().removesuffix("points") == name
    )
    sampler: Sampler = build(
        {"_target_": f"{kind.__module__}.{kind.__name__}", **defaults_of(f"hydra/sweeper/sampler/{name}")}
    )

    assert sampler.lists_points == (name in ("grid", "exhaustive"))
    assert sampler.shuffles() == (name == "exhaustive")


def test_a_listing_sampler_has_no_optuna_sampler() -> None:
    for sampler in (Grid(), Exhaustive(seed=3)):
        with pytest.raises(AssertionError):
            sampler.make(0)


@pytest.mark.parametrize(
    ("sampler", "module", "sentence"),
    [
        (Gp(), "scipy", "The sampler `gp` needs scipy, which is not installed; run pip install 'ptl-prefix[gp]'."),
        (
            CmaEs(),
            "cmaes",
            "The sampler `cmaes` needs cmaes, which is not installed; run pip install 'ptl-prefix[cmaes]'.",
        ),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, sampler: Gp | CmaEs, module: str, sentence: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find("json"))
    assert sampler.problems() == [sentence]

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find("json"))
    assert sampler.problems() == []
