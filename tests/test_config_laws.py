"""Config maps to code by laws, and every file of conf/ keeps them; a new file is found by itself."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ptl_prefix import settings
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.instantiate import TRAINER, import_target, target_values, written_arguments
from ptl_prefix.commands.config.verb_settings import DecodingChanges
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.settings import argument_problems

CONF = settings.conf_dir()
NODES = sorted(path for path in CONF.glob("*/*.yaml") if path.parent.name not in ("hydra", "experiment"))
EXPERIMENTS = sorted(CONF.glob("experiment/*.yaml"))

every_node = pytest.mark.parametrize("path", NODES, ids=lambda path: f"{path.parent.name}/{path.stem}")


def content(path: Path) -> dict[str, Any]:
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def settings_in(path: Path) -> dict[str, Any]:
    """What a config gives the constructor, less where Hydra takes the rest from."""
    return {key: value for key, value in target_values(content(path)).items() if key != "defaults"}


def target_of(path: Path) -> Callable[..., Any]:
    return import_target(content(path)["_target_"], path.parent.name)


def given_later(value: object) -> bool:
    """Whether the user or another part of the config states the value."""
    return isinstance(value, str) and (value == "???" or "${" in value)


def test_there_are_configs() -> None:
    assert NODES


@every_node
def test_a_config_builds_one_thing(path: Path) -> None:
    assert callable(target_of(path))
    assert path.read_text(encoding="utf-8").count("_target_:") == 1


@every_node
def test_a_configs_other_keys_are_the_keywords_of_what_it_builds(path: Path) -> None:
    keys = set(settings_in(path))
    keywords = set(inspect.signature(target_of(path)).parameters)

    if content(path)["_target_"] == TRAINER:
        assert keys <= keywords
    else:
        assert keys == keywords


@every_node
def test_the_constructor_has_no_defaults_of_its_own(path: Path) -> None:
    if content(path)["_target_"] == TRAINER:
        pytest.skip("Lightning's constructor has Lightning's defaults")
    parameters = inspect.signature(target_of(path)).parameters.values()

    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    assert [parameter.name for parameter in parameters if parameter.default is not inspect.Parameter.empty] == []


@every_node
def test_the_keywords_are_known_without_importing_what_is_built(path: Path) -> None:
    written = written_arguments(content(path)["_target_"])

    assert written is None or set(written) == set(inspect.signature(target_of(path)).parameters)
    assert written is not None or path.parent.name not in ("method", "task", "optimizer", "trainer")


def test_changes_of_a_decoding_have_its_ranges() -> None:
    foreign = {"max_new_tokens": 99999999999999, "num_beams": 1001, "length_penalty": 101.0}

    changed = argument_problems(DecodingChanges, {**dict.fromkeys(field_names(DecodingChanges)), **foreign}, "g")

    assert len(changed) == len(foreign)
    for name in foreign:
        assert any(f"`g.{name}` must be <= " in problem for problem in changed), name


def field_names(kind: type[Any]) -> list[str]:
    return list(inspect.signature(kind).parameters)


@every_node
def test_the_defaults_have_the_types_and_ranges_of_the_constructor(path: Path) -> None:
    values = {key: value for key, value in settings_in(path).items() if not given_later(value)}
    to_be_given = {
        f"`{path.parent.name}.{key}` must be given." for key, value in content(path).items() if given_later(value)
    }

    assert set(argument_problems(target_of(path), values, path.parent.name)) <= to_be_given


@every_node
def test_a_configs_first_line_says_what_it_is(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]

    assert first.startswith("# ")
    assert first.endswith((".", ":"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_opens_with_the_command_that_runs_it(path: Path) -> None:
    assert f"experiment={path.stem}" in path.read_text(encoding="utf-8").split("\n\n")[0]


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_primary_config_belongs_to_a_verb_which_describes_its_settings(path: Path) -> None:
    verb = VERBS[path.stem]
    keys = set(content(path)) - {"defaults"}

    assert keys == set(inspect.signature(verb.settings).parameters)
    for group, choice in catalog.groups_of(path.stem).items():
        assert choice is None or choice in {found.name for found in catalog.choices(group)}


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_group_of_a_primary_config_exists(path: Path) -> None:
    entries = [entry for entry in content(path).get("defaults", []) if isinstance(entry, dict)]

    for entry in entries:
        for group in entry:
            assert catalog.choices(group) or (CONF / group).is_dir(), group
