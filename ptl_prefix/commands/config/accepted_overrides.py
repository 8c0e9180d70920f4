"""Which overrides Hydra accepts, and the config of those.

In: overrides, and the name of a primary config. Out: `Composed`. Hydra stops at the first mistake: an override that it
refuses is explained and left out, and the others are composed without it.
"""

from collections.abc import Collection, Iterator, Sequence
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

from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.arguments import quoted
from ptl_prefix.commands.config.instantiate import is_node
from ptl_prefix.commands.config.override_errors import (
    arguments_of_target,
    explain_refusal,
    explain_unresolved_choice,
    has_key,
    parsed_override,
)
from ptl_prefix.errors import ConfigError

_EXPERIMENT = "experiment"
"""The group whose choice sets keys of every other group."""


@dataclass(frozen=True)
class Composed:
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


def own_configs(config_dir: str | None) -> tuple[str, ...]:
    """The override that adds the user's own folder of configs to Hydra's search path."""
    return () if config_dir is None else (f"hydra.searchpath=[{quoted('file://' + str(Path(config_dir).absolute()))}]",)


def compose_accepted(overrides: tuple[str, ...], config_name: str, config_dir: str | None) -> Composed:
    """Compose with all overrides; if that fails, add one at a time to find those that Hydra refuses."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError([f"--config-dir must be a folder, but there is none at '{config_dir}'."])
    kept = own_configs(config_dir)
    config, error = attempt(config_name, (*kept, *overrides))
    if config is not None:
        return Composed(config)
    problems: list[str] = []
    refused: set[str] = set()
    refused_groups: set[str] = set()
    added_keys: set[str] = set()
    before, error_before = attempt(config_name, kept)
    groups = catalog.group_names(config_dir)
    # Groups first, as in Hydra: their choices decide which keys exist.
    for override in sorted(overrides, key=lambda text: text.split("=")[0] not in groups):
        key = key_of(override)
        config, error = attempt(config_name, (*kept, override))
        accepted = override
        if config is None and before is not None and _may_be_added(before, key):
            accepted = f"++{override}"
            config, error = attempt(config_name, (*kept, accepted))
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
    return Composed(before, tuple(problems), frozenset(refused), frozenset(refused_groups), frozenset(added_keys))


def key_of(override: str) -> str:
    """The key of an override, without a `+`; empty when Hydra's grammar refuses the override."""
    parsed = parsed_override(override)
    return parsed.key_or_group if parsed else ""


def with_additions(overrides: Sequence[str], added: Collection[str]) -> tuple[str, ...]:
    """The overrides, with `++` before those whose keys no YAML has."""
    return tuple(f"++{override}" if key_of(override) in added else override for override in overrides)


def attempt(config_name: str, overrides: tuple[str, ...]) -> tuple[DictConfig | None, Exception | None]:
    """The config of these overrides, or Hydra's reason why there is none."""
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


def variants_of(overrides: Sequence[str]) -> Iterator[tuple[str, ...]]:
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
