"""Settings: defaults of a folder of configs, and the settings of a base class in a constructor of its own."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from annotated_types import Ge, Gt

from ptl_prefix.settings import argument_problems, defaults_of, read_configs_from, with_settings_of
from ptl_prefix.tracking.tracking import Tracking


class Box:
    def __init__(self, *, width: Annotated[int, Ge(1)], label: str | None) -> None:
        self.width, self.label = width, label


class Crate(Box):
    @with_settings_of(Box.__init__)
    def __init__(self, *, num_slats: Annotated[int, Ge(2)], **shared: Any) -> None:
        super().__init__(**shared)
        self.num_slats = num_slats


class Scale:
    def __init__(self, *, factor: float, weights: Sequence[float], limit: Annotated[float, Gt(0)] | None) -> None: ...


class Cage(Crate):
    @with_settings_of(Crate.__init__)
    def __init__(self, *, locked: bool, **shared: Any) -> None:
        super().__init__(**shared)
        self.locked = locked


def test_a_constructor_has_its_own_settings_and_those_of_its_base() -> None:
    parameters = inspect.signature(Cage).parameters.values()

    assert [parameter.name for parameter in parameters] == ["locked", "num_slats", "width", "label"]
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}


def test_the_base_receives_what_is_its_own() -> None:
    cage = Cage(locked=True, num_slats=4, width=3, label=None)

    assert (cage.locked, cage.num_slats, cage.width, cage.label) == (True, 4, 3, None)


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        ({"width": 0}, "`box.width` must be >= 1, but is 0."),
        ({"width": 2**63}, "`box.width` must be an integer of 64 bits, but is 9223372036854775808."),
        ({"num_slats": 1}, "`box.num_slats` must be >= 2, but is 1."),
        ({"label": 7}, "`box.label` must be str or null, but is 7."),
        ({"locked": "no"}, "`box.locked` must be bool, but is 'no'."),
        ({"widht": 2}, "`box.widht` is not a setting of Cage; did you mean width?"),
    ],
)
def test_mistakes_in_either_are_found(change: dict[str, Any], mistake: str) -> None:
    values = {"locked": True, "num_slats": 4, "width": 3, "label": "x"}

    assert argument_problems(Cage, values, "box") == []
    assert argument_problems(Cage, {**values, **change}, "box") == [mistake]


def test_what_is_left_out_of_either_is_missed() -> None:
    missing = argument_problems(Cage, {"label": None}, "box")

    assert missing == [f"`box.{key}` must be given." for key in ("locked", "num_slats", "width")]


def test_defaults_are_those_of_the_folder_that_configs_are_read_from(tmp_path: Path) -> None:
    shipped = defaults_of("generation/greedy")["max_new_tokens"]
    file = tmp_path / "conf/generation/greedy.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"max_new_tokens: {shipped + 1}\n")

    with read_configs_from(tmp_path):
        assert defaults_of("generation/greedy")["max_new_tokens"] == shipped + 1
    assert defaults_of("generation/greedy")["max_new_tokens"] == shipped


def test_a_study_of_an_earlier_version_has_the_package_s_defaults_of_newer_keys(tmp_path: Path) -> None:
    shipped = defaults_of("tracking/auto")
    old = {key: value for key, value in shipped.items() if key != "name"}
    file = tmp_path / "conf/tracking/auto.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(old))

    with read_configs_from(tmp_path):
        assert argument_problems(Tracking, old, "tracking") == []
        assert Tracking(**old).name is None
        assert argument_problems(Tracking, {**old, "nmae": "x"}, "tracking") != []
    assert argument_problems(Tracking, old, "tracking") == ["`tracking.name` must be given."]


class Anything:
    def __init__(
        self, *, number: float | None, numbers: list[float], nested: Any, bounded: Annotated[float, Ge(0)]
    ) -> None:
        pass


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["number", "numbers", "nested", "bounded"])
def test_every_number_of_a_config_is_finite(key: str, bad: float) -> None:
    values = {"number": 1.0, "numbers": [1.0, 2.0], "nested": None, "bounded": 0.0}
    value = {"numbers": [1.0, bad], "nested": {"a": [{"b": bad}]}}.get(key, bad)

    (mistake,) = argument_problems(Anything, {**values, key: value}, "box")

    assert mistake.startswith(f"`box.{key}` must be a finite number, but is {bad}")
    assert argument_problems(Anything, values, "box") == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize(("key", "wrap"), [("factor", float), ("weights", lambda one: [1.0, one]), ("limit", float)])
def test_a_number_that_no_training_can_compute_with_is_refused(key: str, wrap: Any, value: float) -> None:
    values = {"factor": 0.5, "weights": [1.0], "limit": None}

    (problem,) = argument_problems(Scale, {**values, key: wrap(value)}, "scale")

    assert problem.startswith(f"`scale.{key}` must be")
    assert argument_problems(Scale, values, "scale") == []
