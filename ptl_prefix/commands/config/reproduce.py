"""Finds the shortest command that composes a run's config.

In: the resolved config of a record. Out: the arguments of `ptl-prefix train`: for each group the closest choice, then
every setting that differs from it.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ptl_prefix.artifacts.config_tree import leaves, walk
from ptl_prefix.artifacts.run_record import RunRecord
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.arguments import quoted
from ptl_prefix.commands.config.hydra_session import hydra_session
from ptl_prefix.commands.config.instantiate import is_node
from ptl_prefix.commands.config.override_errors import parsed_override
from ptl_prefix.commands.config.plain_values import plain_values
from ptl_prefix.commands.config.verb_settings import TrainSettings

_VERB = "train"
_IDENTITY_KEYS = ("run_id", "dry_run", "resume", "resume_anyway", "study", "trial", "outputs_url")
"""Keys that identify a run and do not change what it does."""


def command_for(records: Sequence[RunRecord]) -> str:
    """The command that trains runs again which differ in their seeds alone; one line per run if one command cannot.

    Raises:
        ValueError: If this version of the package cannot compose the configs.
    """
    swept = {key: [value for record in records if (value := _seed(record, key)) is not None] for key in _SEEDS}
    lists = {key: sorted(set(values)) for key, values in swept.items() if len(set(values)) > 1}
    product = 1
    for values in lists.values():
        product *= len(values)
    if product != len(records):
        return "\n".join(command_for([record]) for record in records)
    own = [text for text in overrides_for(records[0].config) if text.partition("=")[0] not in lists]
    arguments = [*own, *(f"{key}={','.join(map(str, values))}" for key, values in lists.items())]
    return " ".join(["ptl-prefix", _VERB, *(["-m"] if lists else []), *map(shlex.quote, arguments)])


_SEEDS = ("seed", "task.subset_seed")


def _seed(record: RunRecord, key: str) -> int | None:
    group, _, name = key.rpartition(".")
    settings = record.config.get(group, {}) if group else record.config
    seed = settings.get(name) if isinstance(settings, Mapping) else None
    return seed if isinstance(seed, int) else None


def overrides_for(config: Mapping[str, Any]) -> list[str]:
    """The overrides that compose a config, without the run's name.

    Raises:
        ValueError: If this version of the package cannot compose the config.
    """
    defaults = {group: choice for group, choice in catalog.groups_of(_VERB).items() if choice is not None}
    if wrong := [group for group in defaults if not isinstance(config.get(group, {}), Mapping)]:
        raise ValueError(f"A run's config must have a mapping as `{wrong[0]}`, but has {config[wrong[0]]!r:.40}.")
    chosen = {group: _closest(group, config[group], default) for group, default in defaults.items() if group in config}
    choices = [f"{group}={choice}" for group, choice in chosen.items() if choice != defaults[group]]
    wanted = _own_leaves(config)
    choices += _choices_of_parts(config, _composed(choices))
    base = _composed(choices)
    newer = {key: value for key, value in _newer_settings(base, config).items() if key not in _filled(wanted)}
    wanted = {**newer, **wanted}
    overrides = [*choices, *_changes(base, wanted)]
    if repr(sorted(_composed(overrides).items())) != repr(sorted(wanted.items())):
        raise ValueError("A run's config must be one that this version of ptl-prefix can compose, but it is not.")
    return overrides


def _newer_settings(base: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a config of an earlier version lacks, with the values that such a run has now.

    A whole group may be newer, and so may a setting of the verb. Lightning's Trainer is none of them: its settings may
    be left out.
    """
    nodes = {group: node for group, node in config.items() if isinstance(node, Mapping)}
    ours = {group for group, node in nodes.items() if str(node.get("_target_", "")).startswith("ptl_prefix.")}
    newer = {key.partition(".")[0] for key in base} - config.keys()
    ours |= {group for group in newer if str(base.get(f"{group}._target_", "")).startswith("ptl_prefix.")}
    settings = {field.name: field.default for field in fields(TrainSettings) if field.default is not MISSING}
    of_groups = {key: value for key, value in base.items() if key.partition(".")[0] in ours}
    return of_groups | {key: value for key, value in settings.items() if key in newer}


def _choices_of_parts(config: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Overrides for nodes inside a group's node, such as the parts of a combination, whose class differs."""
    choices = []
    for group in catalog.groups_of(_VERB):
        inner = walk(config[group]) if isinstance(config.get(group), Mapping) else ()
        for path, node in ((f"{group}.{path}", value) for path, value in inner if is_node(value)):
            composed = base.get(f"{path}._target_")
            if composed != node["_target_"]:
                choices.append(f"{'' if composed else '+'}{group}@{path}={_closest(group, node, default='')}")
    return choices


def _changes(base: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Overrides that turn one composed config into another: changed values, added keys, removed keys."""
    added = [f"++{key}={_value(value)}" for key, value in wanted.items() if key not in base]
    changed = [f"{key}={_value(wanted[key])}" for key in base if key in wanted and not _same(wanted[key], base[key])]
    removed = base.keys() - wanted.keys() - _filled(wanted)
    return [*changed, *added, *(f"~{key}" for key in base if key in removed)]


def _filled(settings: Mapping[str, Any]) -> set[str]:
    """The mappings that hold some of the settings; an empty mapping is a setting itself."""
    return {key.rpartition(".")[0] for key in settings}


def _closest(group: str, node: Mapping[str, Any], default: str) -> str:
    """The choice of a group with the fewest settings that differ from a node; the default wins a tie."""
    wanted = dict(leaves(node))
    names = [choice.name for choice in catalog.choices(group)]
    fitting = [name for name in names if catalog.target_of(group, name) == node.get("_target_")]

    def distance(name: str) -> tuple[int, bool, bool]:
        stated = dict(leaves(catalog.settings_of(group, name)))
        different = [key for key, value in stated.items() if not _is_open(value) and not _same(value, wanted.get(key))]
        return len(different), name != wanted.get("name"), name != default

    return min(fitting or [default], key=distance)


def _is_open(value: Any) -> bool:
    """Whether a value in a YAML comes from the rest of the config."""
    return isinstance(value, str) and (value == "???" or "${" in value)


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same type, as 1, 1.0 and true are different settings."""
    return type(one) is type(other) and repr(one) == repr(other)


def _composed(overrides: Sequence[str]) -> dict[str, Any]:
    """The leaves of the verb's config; empty if Hydra refuses an override."""
    try:
        with hydra_session():
            return _own_leaves(plain_values(compose(_VERB, list(overrides))).values)
    except (HydraException, OmegaConfBaseException):
        return {}


def _own_leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what a run does, by dotted key; groups that are null are left out."""
    own = {key: value for key, value in config.items() if key not in _IDENTITY_KEYS and value is not None}
    return dict(leaves(own))


def _value(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_value(part)}' for key, part in value.items())}}}"
    if not isinstance(value, str):
        return repr(value)
    read = parsed_override(f"key={value}")
    is_itself = read is not None and not read.is_sweep_override() and read.value() == value and value.strip() == value
    return value if is_itself and value else quoted(value)
