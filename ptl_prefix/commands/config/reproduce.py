"""The shortest command that composes a run's config again.

In: a resolved config, as a record holds it. Out: what stands behind `ptl-prefix train`. For each group the choice that
comes closest is named, then every setting that it has otherwise.
"""

import shlex
from collections.abc import Mapping, Sequence
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

_VERB = "train"
_OF_THE_RUN = ("run_id", "dry_run", "resume", "study", "trial")
"""What says which run it is, not what it does."""


def command_for(records: Sequence[RunRecord]) -> str:
    """What trains these runs again, which differ in seeds alone; a line for each where no one command does.

    Raises:
        ValueError: The configs are of another version of this package, and cannot be composed by this one.
    """
    swept = {key: [value for record in records if (value := _seed(record, key)) is not None] for key in _SEEDS}
    lists = {key: sorted(set(values)) for key, values in swept.items() if len(set(values)) > 1}
    product = 1
    for values in lists.values():
        product *= len(values)
    if product != len(records):
        return "\n".join(command_for([record]) for record in records)
    own = [text for text in overrides_for(records[0].config) if text.partition("=")[0] not in lists]
    words = [*own, *(f"{key}={','.join(map(str, values))}" for key, values in lists.items())]
    return " ".join(["ptl-prefix", _VERB, *(["-m"] if lists else []), *map(shlex.quote, words)])


_SEEDS = ("seed", "task.subset_seed")


def _seed(record: RunRecord, key: str) -> int | None:
    group, _, name = key.rpartition(".")
    return (record.config[group] if group else record.config).get(name)


def overrides_for(config: Mapping[str, Any]) -> list[str]:
    """The overrides that compose a config, but for the run's own name.

    Raises:
        ValueError: This version of the package cannot compose it.
    """
    defaults = {group: choice for group, choice in catalog.groups_of(_VERB).items() if choice is not None}
    chosen = {group: _closest(group, config[group], default) for group, default in defaults.items() if group in config}
    choices = [f"{group}={choice}" for group, choice in chosen.items() if choice != defaults[group]]
    wanted = _own_leaves(config)
    choices += _choices_of_parts(config, _composed(choices))
    overrides = [*choices, *_changes(_composed(choices), wanted)]
    if repr(sorted(_composed(overrides).items())) != repr(sorted(wanted.items())):
        raise ValueError("A run's config must be one that this version of ptl-prefix composes, but is not.")
    return overrides


def _choices_of_parts(config: Mapping[str, Any], base: Mapping[str, Any]) -> list[str]:
    """Overrides for the nodes inside a group's node, such as the parts of a combination, that are not as composed."""
    choices = []
    for group in catalog.groups_of(_VERB):
        inner = walk(config[group]) if isinstance(config.get(group), Mapping) else ()
        for path, node in ((f"{group}.{path}", value) for path, value in inner if is_node(value)):
            composed = base.get(f"{path}._target_")
            if composed != node["_target_"]:
                choices.append(f"{'' if composed else '+'}{group}@{path}={_closest(group, node, default='')}")
    return choices


def _changes(base: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Overrides that turn one composed config into another: values set, keys added, keys taken away."""
    added = [f"++{key}={_value(value)}" for key, value in wanted.items() if key not in base]
    changed = [f"{key}={_value(wanted[key])}" for key in base if key in wanted and not _same(wanted[key], base[key])]
    return [*changed, *added, *(f"~{key}" for key in base if key not in wanted)]


def _closest(group: str, node: Mapping[str, Any], default: str) -> str:
    """The choice of a group with the fewest settings that a node has otherwise, the default before its equals."""
    wanted = dict(leaves(node))
    names = [choice.name for choice in catalog.choices(group)]
    fitting = [name for name in names if catalog.target_of(group, name) == node.get("_target_")]

    def distance(name: str) -> tuple[int, bool, bool]:
        stated = dict(leaves(catalog.settings_of(group, name)))
        otherwise = [key for key, value in stated.items() if not _is_open(value) and not _same(value, wanted.get(key))]
        return len(otherwise), name != wanted.get("name"), name != default

    return min(fitting or [default], key=distance)


def _is_open(value: Any) -> bool:
    """Whether a YAML leaves a value to the rest of the config."""
    return isinstance(value, str) and (value == "???" or "${" in value)


def _same(one: Any, other: Any) -> bool:
    """Equal and of one type, as 1, 1.0 and true are different settings."""
    return type(one) is type(other) and repr(one) == repr(other)


def _composed(overrides: Sequence[str]) -> dict[str, Any]:
    """What the verb's config becomes, as leaves; empty where Hydra refuses an override."""
    try:
        with hydra_session():
            return _own_leaves(plain_values(compose(_VERB, list(overrides))).values)
    except (HydraException, OmegaConfBaseException):
        return {}


def _own_leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say what a run does; a group that is null says nothing."""
    own = {key: value for key, value in config.items() if key not in _OF_THE_RUN and value is not None}
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
