"""Explains why Hydra refuses an override.

In: the override, and the config without it. Out: one sentence: what must hold, what was found, what to do. Hydra's own
messages speak of structs and primitives, and suggest a `+` where a key is misspelt.
"""

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ptl_prefix.artifacts.config_tree import walk
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.arguments import equal_sign, quoted
from ptl_prefix.commands.config.instantiate import import_target, written_arguments
from ptl_prefix.commands.config.stock_sweeper import explain_key, explain_sampler

_UNRESOLVED = re.compile(r"Error resolving interpolation '(.*)', possible interpolation keys")


def explain_refusal(
    override: str, error: Exception, config: DictConfig | None, config_name: str, config_dir: str | None
) -> str:
    """One sentence about an override that could not be applied.

    Args:
        override: Override as the user gave it.
        error: Hydra's error.
        config: Config without the override; `None` if it does not compose.
        config_name: Name of the primary config.
        config_dir: Folder of the user's own configs.
    """
    parsed = parsed_override(override)
    if parsed is None:
        return _explain_grammar(override)
    key = parsed.key_or_group
    if parsed.is_interval_sweep():
        return (
            f"`{key}` cannot be an interval here, as only a study draws numbers from one: start it with "
            "`ptl-prefix train -m hydra/sweeper=optuna ...`, or write choice(...) or range(...)."
        )
    if parsed.is_sweep_override():
        value = parsed.get_value_string()
        return (
            f"`{key}` must have one value, but '{value}' is several; add -m to run each of them, "
            f"write {key}=[{value}] for a list, or quote a text that holds a comma."
        )
    names = [choice.name for choice in catalog.choices(key, config_dir)]
    if (sentence := explain_unresolved_choice(error, {key: parsed.value()}, config_dir)) is not None:
        return sentence
    is_group = key in catalog.groups_of(config_name, config_dir) or ("/" in key and names)
    if is_group and parsed.value() not in names:
        return explain_sampler(key, parsed.value()) or _explain_choice(key, parsed.value(), config_dir)
    if is_group:
        # After another error, the file may be one that YAML cannot read.
        entries = catalog.defaults_of(key, str(parsed.value()), config_dir) if _UNRESOLVED.search(str(error)) else {}
        unresolved = explain_unresolved_choice(error, entries, config_dir)
        return f"`{override}` cannot be applied: {unresolved or _first_line(error)}"
    if config is not None and "/" not in key and not has_key(config, key):
        return _explain_key(key, config, config_dir)
    return f"`{override}` cannot be applied: {_first_line(error)}"


def explain_unresolved_choice(error: Exception, entries: Mapping[str, Any], config_dir: str | None) -> str | None:
    """One sentence about a group whose choice is an interpolation that Hydra cannot resolve; `None` for other errors.

    Args:
        error: Hydra's error.
        entries: Choices by group, as an override or a defaults list has them.
        config_dir: Folder of the user's own configs.
    """
    found = _UNRESOLVED.search(str(error))
    groups = [group for group, choice in entries.items() if found is not None and choice == found.group(1)]
    return _explain_choice(groups[0], entries[groups[0]], config_dir) if groups else None


def parsed_override(override: str) -> Override | None:
    """The parsed override; `None` if Hydra's grammar refuses it."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def has_key(config: DictConfig, key: str) -> bool:
    """Whether the config has this key, whatever its value is."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node.keys():  # noqa: SIM118  # `in node` is false for `???`
            return False
        node = node._get_node(part)
    return True


def _explain_grammar(override: str) -> str:
    index = equal_sign(override)
    assert index is not None
    key, value = override[:index], override[index + 1 :]
    if parsed_override(f"{key}=0") is None:
        return (
            f"a setting must be key=value with a key such as optimizer.lr, but '{key}' is no key; "
            "a text that holds an equal sign goes in quotes of its own or behind `--`."
        )
    law = f"the value of `{key}` must follow Hydra's grammar"
    return f"{law}, but '{value}' does not; as a text it is {key}={quoted(value)}"


def _explain_choice(group: str, value: Any, config_dir: str | None) -> str:
    names = [choice.name for choice in catalog.choices(group, config_dir)]
    if isinstance(value, str) and "${" in value:
        law = f"must be one of {catalog.offered(group, config_dir)}" if names else "must be the name of a choice"
        return (
            f"`{group}` {law}, but is '{value}', which stands for none: where choices are made, only other groups' "
            "choices, such as ${backbone}, and environment variables that are set can be read; write the choice itself"
            f"{f', such as {group}={names[0]}' if names else ''}."
        )
    likely = difflib.get_close_matches(str(value), names, n=1)
    hint = f"; did you mean {likely[0]}?" if likely else "."
    fact = "null" if value is None else f"'{value}'"
    return f"`{group}` must be one of {catalog.offered(group, config_dir)}, but is {fact}{hint}"


def _explain_key(key: str, config: DictConfig, config_dir: str | None) -> str:
    if (sentence := explain_key(key)) is not None:
        return sentence
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if has_key(config, parent) else config if not parent else None
    siblings = [*(str(sibling) for sibling in node if sibling not in ("_target_", "hydra"))] if _is_dict(node) else []
    if likely := difflib.get_close_matches(name, [*siblings, *arguments_of_target(config, parent)], n=2):
        before = f"{parent}." if parent else ""
        return f"`{key}` is not a setting; did you mean {before}{f' or {before}'.join(dict.fromkeys(likely))}?"
    known = dict.fromkeys([*_all_keys(config), *catalog.group_names(config_dir)])
    if likely := difflib.get_close_matches(key, known, n=2, cutoff=0.75):
        return f"`{key}` is not a setting; did you mean {' or '.join(likely)}?"
    if siblings:
        of_parent = f" of `{parent}`" if parent else ""
        return f"`{key}` is not a setting; the settings{of_parent} are: {', '.join(sorted(siblings))}."
    return f"`{key}` is not a setting, and neither is `{parent}` a group of them."


def _is_dict(node: Any) -> TypeGuard[DictConfig]:
    return isinstance(node, DictConfig)


def arguments_of_target(config: DictConfig, group: str) -> list[str]:
    """The arguments of a group's constructor; Lightning's Trainer has more than its YAML."""
    path = OmegaConf.select(config, f"{group}._target_") if has_key(config, f"{group}._target_") else None
    if not path:
        return []
    if (written := written_arguments(str(path))) is not None:
        return written
    try:
        return list(inspect.signature(import_target(path, group)).parameters)
    except ValueError:
        return []


def _all_keys(config: DictConfig) -> Iterator[str]:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return (path for path, _ in walk(plain))


def _first_line(error: Exception) -> str:
    """The first line of an error's cause, which says more than the error itself."""
    message = str(error.__cause__ or error).strip()
    return message.splitlines()[0] if message else type(error).__name__
