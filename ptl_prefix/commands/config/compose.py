"""Composes the config of a verb and checks it.

In: a verb and its overrides. Out: the composed config as plain values, or a `ConfigError` with every mistake. What can
be said from the classes behind a config is found by `config_problems`, which imports them; a study starts that in
another process, and composes its next config meanwhile.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ptl_prefix.artifacts.remote.open_run import folder_to_continue
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.accepted_overrides import (
    Composed,
    attempt,
    compose_accepted,
    key_of,
    own_configs,
    variants_of,
    with_additions,
)
from ptl_prefix.commands.config.arguments import HydraFlags
from ptl_prefix.commands.config.hydra_session import hydra_session
from ptl_prefix.commands.config.instantiate import is_node
from ptl_prefix.commands.config.override_errors import has_key, parsed_override
from ptl_prefix.commands.config.plain_values import Plain, plain_values
from ptl_prefix.commands.config.validate import config_problems, folder_names, folder_problems
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.errors import ConfigError

StartCheck = Callable[[Verb, Mapping[str, Any], Mapping[str, str | None], Collection[str]], Callable[[], list[str]]]
"""Starts `config_problems` with these arguments, here or in another process; what it returns waits for the result."""


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
class _Variant:
    """One config of a command line, composed.

    Args:
        composed: Config of the overrides that Hydra accepts.
        plain: Its plain values.
        check: Waits for the problems that the values have.
        other_problems: Problems of the overrides themselves.
        folder: Folder that the config names, or why it names none.
    """

    composed: Composed
    plain: Plain
    check: Callable[[], list[str]]
    other_problems: tuple[str, ...]
    folder: str | OmegaConfBaseException


@dataclass(frozen=True)
class UncheckedConfig:
    """A composed config whose check was started.

    Args:
        verb: Verb of the config.
        overrides: Given overrides.
        flags: Hydra's flags.
        variants: Config of the first value of every swept key, then those of each other value.
    """

    verb: Verb
    overrides: tuple[str, ...]
    flags: HydraFlags
    variants: tuple[_Variant, ...]

    @property
    def has_refused_overrides(self) -> bool:
        """Whether Hydra refuses an override, so that the check will fail."""
        return any(variant.composed.problems for variant in self.variants)

    @property
    def accepted_overrides(self) -> tuple[str, ...]:
        """The overrides that compose the config again."""
        added = self.variants[0].composed.added_keys
        if self.flags.multirun:
            added |= _keys_of_swept_choices(self.verb, self.overrides, self.flags)
        return with_additions(self.overrides, added)

    def checked(self) -> CheckedConfig:
        """The config, once its check has ended.

        Raises:
            ConfigError: With every mistake.
        """
        mode = "sweep" if self.flags.multirun else "run"
        problems: dict[str, None] = {}  # in order, each once
        for variant in self.variants:
            found = [*variant.composed.problems, *_described(variant.plain, variant.check())]
            found += _folder_problems(variant.folder, variant.plain.values, mode, is_alone=not found)
            problems.update(dict.fromkeys([*found, *variant.other_problems]))
        if problems:
            raise ConfigError(list(problems))
        first = self.variants[0]
        resumed_folder = self.verb.folder_key and first.plain.values[self.verb.folder_key]
        named = OmegaConf.select(first.composed.config, "hydra.run.dir")
        folder = folder_to_continue(resumed_folder) if resumed_folder else named
        return CheckedConfig(first.plain.values, self.accepted_overrides, Path(folder))


def compose_and_check(
    verb: Verb, overrides: Sequence[str], flags: HydraFlags | None = None, start_check: StartCheck | None = None
) -> CheckedConfig:
    """Compose and check the config of a verb. Of a sweep, every value is checked, and the first job's config returned.

    Args:
        verb: Verb of the config.
        overrides: Its overrides.
        flags: Hydra's flags; `None` for none.
        start_check: Starts the check; `None` checks here.

    Raises:
        ConfigError: With every mistake, before any weights load.
    """
    return compose_unchecked(verb, overrides, flags or HydraFlags(), start_check or check_here).checked()


def compose_unchecked(
    verb: Verb, overrides: Sequence[str], flags: HydraFlags, start_check: StartCheck
) -> UncheckedConfig:
    """Compose the config of a verb, and start its check.

    Raises:
        ConfigError: If no config composes at all.
    """
    with hydra_session():
        variants = variants_of(overrides) if flags.multirun else [tuple(overrides)]
        composed = tuple(_compose_variant(verb, variant, flags, start_check) for variant in variants)
    return UncheckedConfig(verb, tuple(overrides), flags, composed)


def check_here(
    verb: Verb, config: Mapping[str, Any], groups: Mapping[str, str | None], refused_groups: Collection[str]
) -> Callable[[], list[str]]:
    """Check a config in this process, when its result is needed."""
    return lambda: config_problems(verb, config, groups, refused_groups)


def _compose_variant(verb: Verb, overrides: tuple[str, ...], flags: HydraFlags, start_check: StartCheck) -> _Variant:
    composed = compose_accepted(overrides, flags.config_name or verb.name, flags.config_dir)
    plain = plain_values(composed.config)
    groups = catalog.groups_of(flags.config_name or verb.name, flags.config_dir)
    check = start_check(verb, plain.values, groups, _skipped_groups(composed, plain.values, overrides))
    folder: str | OmegaConfBaseException
    try:
        folder = str(OmegaConf.select(composed.config, f"hydra.{'sweep' if flags.multirun else 'run'}.dir"))
    except OmegaConfBaseException as error:
        folder = error
    others = (
        *_ambiguous_choices(overrides, flags.config_dir),
        *_unread_settings(verb, plain.values, overrides, flags),
    )
    return _Variant(composed, plain, check, others, folder)


def check_overrides(verb: Verb, overrides: Sequence[str], flags: HydraFlags) -> tuple[str, ...]:
    """The overrides as Hydra accepts them, for flags that only show a config: values may still be wrong or missing.

    Raises:
        ConfigError: With every override that Hydra refuses.
    """
    with hydra_session():
        composed = compose_accepted(tuple(overrides), flags.config_name or verb.name, flags.config_dir)
    if composed.problems:
        raise ConfigError(composed.problems)
    return with_additions(overrides, composed.added_keys)


def composed_for_study(verb: Verb, overrides: Sequence[str], flags: HydraFlags) -> DictConfig | None:
    """The node `hydra` of a config; `None` if the config does not compose."""
    with hydra_session():
        composed, _ = attempt(flags.config_name or verb.name, (*own_configs(flags.config_dir), *overrides))
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
    groups = catalog.groups_of(flags.config_name or verb.name, flags.config_dir)
    if problems := _described(plain, config_problems(verb, plain.values, groups)):
        raise ConfigError(problems)
    return plain.values


def _keys_of_swept_choices(verb: Verb, overrides: Sequence[str], flags: HydraFlags) -> set[str]:
    """Keys that exist only in a choice that is swept over, such as one of several experiments.

    Hydra first composes the config that the jobs share, without that choice, and would refuse these keys there.
    """
    parsed = {override: parsed_override(override) for override in overrides}
    common = [text for text, read in parsed.items() if read and not read.is_sweep_override() and text[0] not in "+~"]
    common = [text for text in common if "/" not in key_of(text)]  # Hydra's own groups are there without any choice
    chosen = tuple(text for text in common if "." not in key_of(text))
    with hydra_session():
        start, _ = attempt(flags.config_name or verb.name, (*own_configs(flags.config_dir), *chosen))
    return set() if start is None else {key_of(text) for text in common if not has_key(start, key_of(text))}


def _skipped_groups(composed: Composed, values: Mapping[str, Any], overrides: Sequence[str]) -> Collection[str]:
    """Groups that are not checked: none, or after a refused override those that no accepted override mentions.

    What they say would be of the defaults, and the classes behind them take seconds to import. After a misspelt key
    beside other settings everything is checked, as these may be wrong together.
    """
    accepted = [override for override in overrides if override not in composed.refused]
    nodes = {key for key, value in values.items() if is_node(value)}
    mentioned = (nodes & {key_of(override).partition(".")[0] for override in accepted}) - composed.refused_groups
    if not composed.problems or (mentioned and not composed.refused_groups):
        return ()
    return nodes - mentioned | composed.refused_groups


def _described(plain: Plain, found: Sequence[str]) -> list[str]:
    """The problems of a config's values: unresolved ones first."""
    # A key with an unresolved interpolation is given, though it has no value.
    untrue = {f"`{name}` must be given." for name in plain.unresolved}
    return [*plain.problems, *(problem for problem in found if problem not in untrue)]


def _folder_problems(
    folder: str | OmegaConfBaseException, values: Mapping[str, Any], mode: str, *, is_alone: bool
) -> list[str]:
    if isinstance(folder, OmegaConfBaseException):
        # With other problems, its name depends on values that are missing or wrong, and reported.
        return [f"`hydra.{mode}.dir` must be a path, but: {str(folder).splitlines()[0]}."] if is_alone else []
    return folder_problems(f"hydra.{mode}.dir", folder, already_checked=folder_names(values).values())


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
    given = {key_of(override) for override in overrides}
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
