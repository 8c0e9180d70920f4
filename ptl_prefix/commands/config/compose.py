"""Composes the config of a verb and checks it.

In: a verb and its overrides. Out: the composed config as plain values, or a `ConfigError` with every mistake. Hydra
stops at the first mistake: an override that it refuses is explained and left out, and the others are composed without
it.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ptl_prefix.artifacts.remote.open_run import folder_to_continue
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.arguments import HydraFlags, quoted
from ptl_prefix.commands.config.hydra_session import hydra_session
from ptl_prefix.commands.config.instantiate import is_node
from ptl_prefix.commands.config.override_errors import (
    arguments_of_target,
    explain_refusal,
    explain_unresolved_choice,
    has_key,
    parsed_override,
)
from ptl_prefix.commands.config.plain_values import Plain, plain_values
from ptl_prefix.commands.config.validate import config_problems, folder_names, folder_problems
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.errors import ConfigError

_EXPERIMENT = "experiment"
"""The group whose choice sets keys of every other group."""


@dataclass(frozen=True)
class CheckedConfig:
    """A config without mistakes.

    Args:
        config: Config as plain values, with interpolations resolved.
        overrides: Overrides that compose it again.
        run_folder: Folder of the run.
    """

    config: dict[str, Any]
    overrides: tuple[str, ...]
    run_folder: Path


@dataclass(frozen=True)
class _Composed:
    """The config of the overrides that Hydra accepts.

    Args:
        config: Composed config.
        problems: A sentence for each refused override.
        refused: Overrides that were refused, or belong to a choice that was.
        refused_groups: Groups whose choice was refused.
        added_keys: Given keys that no YAML has, but the constructor of their node.
    """

    config: DictConfig
    problems: tuple[str, ...] = ()
    refused: frozenset[str] = frozenset()
    refused_groups: frozenset[str] = frozenset()
    added_keys: frozenset[str] = frozenset()


def compose_and_check(verb: Verb, overrides: Sequence[str], flags: HydraFlags | None = None) -> CheckedConfig:
    """Compose and check the config of a verb. Of a sweep, every value is checked, and the first job's config returned.

    Raises:
        ConfigError: With every mistake, before any weights load.
    """
    flags = flags or HydraFlags()
    results: list[tuple[_Composed, Plain]] = []
    problems: dict[str, None] = {}  # in order, each once
    with hydra_session():
        for variant in _variants(overrides) if flags.multirun else [tuple(overrides)]:
            composed = _compose(variant, flags.config_name or verb.name, flags.config_dir)
            plain = plain_values(composed.config)
            skipped = _skipped_groups(composed, plain.values, variant)
            found = [*composed.problems, *_value_problems(verb, plain, flags, skipped)]
            mode = "sweep" if flags.multirun else "run"
            found += _folder_problems(composed.config, plain.values, mode, is_alone=not found)
            found += _ambiguous_choices(variant, flags.config_dir)
            found += _unread_settings(verb, plain.values, variant, flags)
            problems.update(dict.fromkeys(found))
            results.append((composed, plain))
    if problems:
        raise ConfigError(list(problems))
    composed, plain = results[0]
    added = composed.added_keys | (_keys_of_swept_choices(verb, overrides, flags) if flags.multirun else set())
    resumed_folder = verb.folder_key and plain.values[verb.folder_key]
    folder = (
        folder_to_continue(resumed_folder) if resumed_folder else OmegaConf.select(composed.config, "hydra.run.dir")
    )
    return CheckedConfig(plain.values, _with_additions(overrides, added), Path(folder))


def check_overrides(verb: Verb, overrides: Sequence[str], flags: HydraFlags) -> tuple[str, ...]:
    """The overrides as Hydra accepts them, for flags that only show a config: values may still be wrong or missing.

    Raises:
        ConfigError: With every override that Hydra refuses.
    """
    with hydra_session():
        composed = _compose(tuple(overrides), flags.config_name or verb.name, flags.config_dir)
    if composed.problems:
        raise ConfigError(composed.problems)
    return _with_additions(overrides, composed.added_keys)


def composed_for_study(verb: Verb, overrides: Sequence[str], flags: HydraFlags) -> DictConfig | None:
    """The node `hydra` of a config; `None` if the config does not compose."""
    with hydra_session():
        composed, _ = _attempt(flags.config_name or verb.name, (*_own_configs(flags.config_dir), *overrides))
        # Resolved inside the session: the folder's name depends on the rest of the config.
        if composed is None:
            return None
        hydra: DictConfig = composed.hydra
        folder = OmegaConf.select(composed, "hydra.sweep.dir")
    OmegaConf.set_readonly(hydra, False)
    hydra.sweep.dir = str(folder)
    return hydra


def checked_job(verb: Verb, config: DictConfig, flags: HydraFlags) -> dict[str, Any]:
    """The config of one job of a sweep as plain values, with the job's combination of values checked.

    Raises:
        ConfigError: With every mistake.
    """
    plain = plain_values(config)
    if problems := _value_problems(verb, plain, flags):
        raise ConfigError(problems)
    return plain.values


def _keys_of_swept_choices(verb: Verb, overrides: Sequence[str], flags: HydraFlags) -> set[str]:
    """Keys that exist only in a choice that is swept over, such as one of several experiments.

    Hydra first composes the config that the jobs share, without that choice, and would refuse these keys there.
    """
    parsed = {override: parsed_override(override) for override in overrides}
    common = [text for text, read in parsed.items() if read and not read.is_sweep_override() and text[0] not in "+~"]
    common = [text for text in common if "/" not in _key(text)]  # Hydra's own groups are there without any choice
    chosen = tuple(text for text in common if "." not in _key(text))
    with hydra_session():
        start, _ = _attempt(flags.config_name or verb.name, (*_own_configs(flags.config_dir), *chosen))
    return set() if start is None else {_key(text) for text in common if not has_key(start, _key(text))}


def _own_configs(config_dir: str | None) -> tuple[str, ...]:
    """The override that adds the user's own folder of configs to Hydra's search path."""
    return () if config_dir is None else (f"hydra.searchpath=[{quoted('file://' + str(Path(config_dir).absolute()))}]",)


def _compose(overrides: tuple[str, ...], config_name: str, config_dir: str | None) -> _Composed:
    """Compose with all overrides; if that fails, add one at a time to find those that Hydra refuses."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError([f"--config-dir must be a folder, but there is none at '{config_dir}'."])
    own_configs = _own_configs(config_dir)
    config, error = _attempt(config_name, (*own_configs, *overrides))
    if config is not None:
        return _Composed(config)
    kept = own_configs
    problems: list[str] = []
    refused: set[str] = set()
    refused_groups: set[str] = set()
    added_keys: set[str] = set()
    before, error_before = _attempt(config_name, kept)
    groups = catalog.group_names(config_dir)
    # Groups first, as in Hydra: their choices decide which keys exist.
    for override in sorted(overrides, key=lambda text: text.split("=")[0] not in groups):
        key = _key(override)
        config, error = _attempt(config_name, (*kept, override))
        accepted = override
        if config is None and before is not None and _may_be_added(before, key):
            accepted = f"++{override}"
            config, error = _attempt(config_name, (*kept, accepted))
            added_keys |= {key}
        if config is not None or str(error) == str(error_before):
            kept, before, error_before = (*kept, accepted), config, error
            continue
        refused |= {override}
        if not refused_groups & {key.split(".")[0], _EXPERIMENT}:
            assert error is not None
            problems.append(explain_refusal(override, error, before, config_name, config_dir))
            refused_groups |= {key} & set(groups)
    if before is None:
        assert error_before is not None
        entries = catalog.groups_of(config_name, config_dir)
        fact = explain_unresolved_choice(error_before, entries, config_dir) or str(error_before).splitlines()[0]
        raise ConfigError([*problems, f"the config {config_name} must compose, but does not: {fact}"])
    return _Composed(before, tuple(problems), frozenset(refused), frozenset(refused_groups), frozenset(added_keys))


def _key(override: str) -> str:
    """The key of an override, without a `+`; empty when Hydra's grammar refuses the override."""
    parsed = parsed_override(override)
    return parsed.key_or_group if parsed else ""


def _with_additions(overrides: Sequence[str], added: Collection[str]) -> tuple[str, ...]:
    return tuple(f"++{override}" if _key(override) in added else override for override in overrides)


def _attempt(config_name: str, overrides: tuple[str, ...]) -> tuple[DictConfig | None, Exception | None]:
    try:
        return compose(config_name, list(overrides), return_hydra_config=True), None
    except (HydraException, OmegaConfBaseException, ValueError, YAMLError) as error:
        return None, error


def _may_be_added(config: DictConfig, key: str) -> bool:
    """Whether a key that no YAML has is an argument of its node's constructor, or in a mapping that one is.

    The trainer's YAML has a few of Lightning's many arguments; those of a tuner of PEFT are checked by its method.
    """
    group, _, name = key.rpartition(".")
    return name in arguments_of_target(config, group) or _is_open_mapping(config, group)


def _is_open_mapping(config: DictConfig, key: str) -> bool:
    """Whether a key is an argument of its node's constructor and a mapping of plain values, such as `method.settings`.

    A mapping of nodes, such as the parts of a combination, has the keys of its YAML.
    """
    group, _, name = key.rpartition(".")
    if name not in arguments_of_target(config, group) or not has_key(config, key):
        return False
    value: Any = OmegaConf.to_container(config, resolve=False)
    for part in key.split("."):
        value = value[part]
    return isinstance(value, dict) and not any(is_node(part) for part in value.values())


def _skipped_groups(composed: _Composed, values: Mapping[str, Any], overrides: Sequence[str]) -> Collection[str]:
    """Groups that are not checked: none, or after a refused override those that no accepted override mentions.

    What they say would be of the defaults, and the classes behind them take seconds to import. After a misspelt key
    beside other settings everything is checked, as these may be wrong together.
    """
    accepted = [override for override in overrides if override not in composed.refused]
    nodes = {key for key, value in values.items() if is_node(value)}
    mentioned = (nodes & {_key(override).partition(".")[0] for override in accepted}) - composed.refused_groups
    if not composed.problems or (mentioned and not composed.refused_groups):
        return ()
    return nodes - mentioned | composed.refused_groups


def _value_problems(verb: Verb, plain: Plain, flags: HydraFlags, refused_groups: Collection[str] = ()) -> list[str]:
    groups = catalog.groups_of(flags.config_name or verb.name, flags.config_dir)
    # A key with an unresolved interpolation is given, though it has no value.
    untrue = {f"`{name}` must be given." for name in plain.unresolved}
    found = config_problems(verb, plain.values, groups, refused_groups)
    return [*plain.problems, *(problem for problem in found if problem not in untrue)]


def _folder_problems(config: DictConfig, values: Mapping[str, Any], mode: str, *, is_alone: bool) -> list[str]:
    try:
        folder = OmegaConf.select(config, f"hydra.{mode}.dir")
    except OmegaConfBaseException as error:
        # With other problems, its name depends on values that are missing or wrong, and reported.
        return [f"`hydra.{mode}.dir` must be a path, but: {str(error).splitlines()[0]}."] if is_alone else []
    return folder_problems(f"hydra.{mode}.dir", str(folder), already_checked=folder_names(values).values())


def _ambiguous_choices(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """Choices of the user's that have the name of one of the package's, of which Hydra would silently take one."""
    problems = []
    for override in overrides:
        group, _, name = override.lstrip("+").partition("=")
        if re.fullmatch(r"[\w/]+", group) and (path := catalog.hidden_choice(group, name, config_dir)) is not None:
            problems.append(
                f"`{group}={name}` must mean one file, but '{path}' has the name of a choice of ptl_prefix's; "
                "rename it."
            )
    return problems


def _unread_settings(verb: Verb, values: Mapping[str, Any], overrides: Sequence[str], flags: HydraFlags) -> list[str]:
    """Settings that would be ignored: the folder of the other mode, or settings beside a resumed run."""
    problems = []
    given = {_key(override) for override in overrides}
    if flags.multirun and "hydra.run.dir" in given:
        problems.append("`hydra.run.dir` is not read with -m; the jobs of a sweep are in `hydra.sweep.dir`.")
    if not flags.multirun and "hydra.sweep.dir" in given:
        problems.append("`hydra.sweep.dir` is not read without -m; a single run is in `hydra.run.dir`.")
    if verb.folder_key and values.get(verb.folder_key) is not None:
        others = [*sorted(given - {verb.folder_key, *verb.beside_folder}), *(["-m"] if flags.multirun else [])]
        if others:
            law = f"`{verb.folder_key}` must be given alone, as the run has its config"
            problems.append(f"{law}, but there is also {', '.join(others)}.")
    return problems


def _variants(overrides: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The first value of every swept key, then each other value once: the sum of the values, not their product."""
    alternatives = [_alternatives(override) for override in overrides]
    first = tuple(options[0] for options in alternatives)
    yield first
    for index, options in enumerate(alternatives):
        for option in options[1:]:
            yield (*first[:index], option, *first[index + 1 :])


def _alternatives(override: str) -> list[str]:
    loader = GlobalHydra.instance().config_loader()
    try:
        parsed = OverridesParser.create(config_loader=loader).parse_override(override)
        if not (parsed.is_sweep_override() and parsed.is_discrete_sweep()):
            return [override]
        key = parsed.get_key_element()
        return [f"{key}={value}" for value in parsed.sweep_string_iterator()] or [override]
    except HydraException:
        return [override]
