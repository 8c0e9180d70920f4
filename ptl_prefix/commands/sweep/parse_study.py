"""Parses a command line into the specification of a study, and checks it completely.

In: overrides, some of which have several values, and the settings of `hydra.sweeper`. Out: `ParsedStudy`. Every listed
value and both ends of every range compose to a valid config; otherwise all mistakes are reported at once.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ptl_prefix.commands.config.arguments import HydraFlags, quoted_override
from ptl_prefix.commands.config.compose import UncheckedConfig, compose_and_check, compose_unchecked
from ptl_prefix.commands.config.instantiate import build, target_values
from ptl_prefix.commands.config.stock_sweeper import setting_problems
from ptl_prefix.commands.config.validate import node_problems
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.sweep.checks import StudyChecks
from ptl_prefix.commands.sweep.choose_sweeper import ChosenSweeper, choose_sweeper
from ptl_prefix.commands.sweep.objective import direction_of, objective_notes
from ptl_prefix.commands.sweep.parse_space import is_swept, parse_dimension
from ptl_prefix.commands.sweep.parsed_study import ParsedStudy
from ptl_prefix.commands.sweep.slurm import several_nodes_problems
from ptl_prefix.commands.sweep.trial_server import SERVER_MODULE
from ptl_prefix.errors import ConfigError
from ptl_prefix.settings import argument_problems
from ptl_prefix.sweeping.result_cache import code_fingerprint
from ptl_prefix.sweeping.search_space import MAX_LISTED, SearchSpace
from ptl_prefix.sweeping.storage import absolute_url
from ptl_prefix.sweeping.study_spec import Arm, StudySpec
from ptl_prefix.sweeping.sweeper_settings import Direction, SweeperSettings, key_of
from ptl_prefix.sweeping.trial_processes import TrialServer, prepared_trial_server

_WHERE = "hydra.sweeper"


@contextmanager
def parsed_with_server(
    verb: Verb, overrides: Sequence[str], flags: HydraFlags, sweeper: ChosenSweeper
) -> Iterator[tuple[ParsedStudy, TrialServer]]:
    """Parse a study while its trial server imports; the server is stopped at the end of the block.

    Raises:
        ConfigError: With every mistake, before anything is trained.
    """
    with prepared_trial_server(SERVER_MODULE, warm=sweeper.warm) as server:
        yield parse_study(verb, overrides, flags, sweeper, server), server


def parse_study(
    verb: Verb,
    overrides: Sequence[str],
    flags: HydraFlags,
    sweeper: ChosenSweeper | None = None,
    server: TrialServer | None = None,
) -> ParsedStudy:
    """Parse and check the study of a command line.

    Args:
        verb: The verb that trains.
        overrides: All overrides of the command line.
        flags: Hydra's flags.
        sweeper: The command line's sweeper; `None` chooses it.
        server: Trial server that checks the configs; `None` checks them here.

    Raises:
        ConfigError: With every mistake, before anything is trained.
    """
    sweeper = sweeper or choose_sweeper(verb, overrides, flags)
    if sweeper.hydra is None:
        compose_and_check(verb, overrides, flags)  # raises the reason
        raise AssertionError("a config that does not compose has mistakes")
    node: dict[str, Any] = OmegaConf.to_container(sweeper.hydra.sweeper, resolve=True)  # type: ignore[assignment]
    settings = _checked_settings(node)
    # Overrides of the sweep's folder and of the sweeper's parts do not belong to the trials. `hydra/sweeper=` itself
    # does: an experiment's file may set keys that only the chosen sweeper has.
    of_sweep = [text for text in sweeper.single if text.lstrip("+").startswith(("hydra.sweep", "hydra/sweeper/"))]
    of_trials = [text for text in sweeper.single if text not in of_sweep]
    hydra_overrides = [text for text in of_sweep if not text.lstrip("+").startswith("hydra.sweep.")]
    mistakes = settings.problems()
    arms = list(_parse_arms(settings, [text for text in overrides if is_swept(text)], flags.config_dir, mistakes))
    if mistakes:
        raise ConfigError(mistakes)
    folder = Path(str(sweeper.hydra.sweep.dir))
    confirming = settings.confirm_overrides if settings.confirm_top_k else ()
    checks = StudyChecks(server)
    first_config = _check_points(verb, of_trials, arms, confirming, flags, checks, packed=settings.pack > 1)
    spec = StudySpec(
        name=settings.study_name or folder.name,
        token=secrets.token_hex(3),
        config_name=flags.config_name or verb.name,
        overrides=of_trials,
        code=code_fingerprint(),
        arms=arms,
        **settings.study_settings() | {"direction": settings.direction or direction_of(settings.objective)},
    )
    if problems := _problems(spec, first_config, settings.direction, checks):
        raise ConfigError(problems)
    storage = absolute_url(settings.storage)
    notes = tuple(objective_notes(spec.objective))
    return ParsedStudy(spec, folder, storage, first_config, (*sweeper.overrides, *hydra_overrides), notes)


# The settings


def _checked_settings(node: Mapping[str, Any]) -> SweeperSettings:
    values = {key: value for key, value in target_values(node).items() if key != "_recursive_"}
    of_plugin = setting_problems(values)
    own = {key: value for key, value in values.items() if key not in of_plugin}
    mistakes = [*of_plugin.values(), *argument_problems(SweeperSettings, {"direction": None} | own, _WHERE)]
    for part in ("sampler", "pruner"):
        if isinstance(values.get(part), Mapping) and "_target_" in values[part]:
            mistakes += node_problems(f"{_WHERE}.{part}", values[part])
        else:
            mistakes.append(f"`{_WHERE}.{part}` must be chosen by hydra/sweeper/{part}=, but is {values.get(part)!r}.")
    if mistakes:
        raise ConfigError(mistakes)
    return SweeperSettings(**values)


def _problems(
    spec: StudySpec, config: Mapping[str, Any], direction: Direction | None, checks: StudyChecks
) -> list[str]:
    """What is wrong between the settings, the search spaces and the config of a trial."""
    problems = _problems_of_single_runs(spec, config)
    sampler, pruner = build(spec.sampler), build(spec.pruner)
    searched = {key for arm in spec.arms for key in arm.space.dimensions}
    problems += [
        f"`hydra.sweeper.confirm_overrides` must leave what was searched, but it sets `{key_of(text)}`."
        for text in spec.confirm_overrides
        if key_of(text) in searched
    ]
    for arm in spec.arms:
        of_arm = f" of arm {arm.name}" if arm.name else ""
        if not arm.space.dimensions and len(spec.arms) == 1 and not sampler.lists_points:
            problems.append(
                "A sweep must search at least one key, but no key has several values; write -m key=1,2 or "
                "set `hydra.sweeper.params`."
            )
        if sampler.lists_points and arm.space.size is None:
            problems.append(
                f"The sampler must be able to list all points, but the space{of_arm} has an interval or more than "
                f"{MAX_LISTED:,} points; add hydra/sweeper=optuna, or choose hydra/sweeper/sampler=tpe or random."
            )
        if arm.space.size is None and spec.n_trials is None and spec.budget_s is None and spec.budget_tokens is None:
            problems.append(
                f"The search{of_arm} must have an end, but `hydra.sweeper.n_trials`, `budget_s` and `budget_tokens` "
                "are all null; set one of them."
            )
    problems += checks.objective_problems(config, spec.objective, direction, prunes=pruner.prunes)
    return problems


def _problems_of_single_runs(spec: StudySpec, config: Mapping[str, Any]) -> list[str]:
    """Settings that have a meaning for a single run only, or not for this executor."""
    problems = several_nodes_problems(config, spec.executor)
    if config.get("dry_run"):
        problems.append(
            "`dry_run` must be false in a study, since it shows a single run; `ptl-prefix sweep plan` shows a study."
        )
    if any(text.lstrip("+").startswith("hydra.run.dir=") for text in spec.overrides):
        problems.append("`hydra.run.dir` is not read with -m; the jobs of a sweep are in `hydra.sweep.dir`.")
    return problems


# The search spaces


def _parse_arms(
    settings: SweeperSettings, swept: Sequence[str], config_dir: str | None, mistakes: list[str]
) -> Iterator[Arm]:
    """The arms, each with the keys that the command line searches as well; a sentence is added for each mistake."""
    common = dict(parse_dimension(text, mistakes, config_dir) for text in swept)
    for name, arm in (settings.arms or {"": {"params": settings.params}}).items():
        if not isinstance(arm, Mapping):
            continue  # `SweeperSettings.problems` names it
        texts = [quoted_override(f"{key}={value}", sweeping=True) for key, value in (arm.get("params") or {}).items()]
        own = [text for text in texts if is_swept(text)]
        mistakes += [
            f"A searched parameter must be choice(...), interval(...), range(...) or a,b, but is {text}."
            for text in texts
            if text not in own
        ]
        dimensions = dict(parse_dimension(text, mistakes, config_dir) for text in own) | common
        valid = {key: one for key, one in dimensions.items() if one is not None}
        yield Arm(name=name, overrides=list(arm.get("overrides") or []), space=SearchSpace(valid))


def _check_points(
    verb: Verb,
    single: Sequence[str],
    arms: Sequence[Arm],
    confirming: Sequence[str],
    flags: HydraFlags,
    checks: StudyChecks,
    *,
    packed: bool,
) -> Mapping[str, Any]:
    """Check each value of each arm once, which takes their sum of compositions and not their product.

    Returns:
        The config of the first point.
    """
    mistakes: dict[str, None] = {}
    composed: list[UncheckedConfig | ConfigError] = []
    # All are composed before the first is waited for, since the trial server may still be importing.
    for point in (point for arm in arms for point in _points_to_check(arm, confirming)):
        try:
            composed.append(
                compose_unchecked(verb, (*single, *point), flags.without_multirun(), checks.start_config_check)
            )
        except ConfigError as error:
            composed.append(error)
    first: Mapping[str, Any] | None = None
    for one in composed:
        try:
            if isinstance(one, ConfigError):
                raise one
            config = one.checked().config
            first = first or config
            if packed:
                mistakes.update(dict.fromkeys(checks.start_pack_check(config)()))
        except ConfigError as error:
            mistakes.update(dict.fromkeys(error.mistakes))
    if mistakes:
        raise ConfigError(list(mistakes))
    assert first is not None
    return first


def _points_to_check(arm: Arm, confirming: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Overrides of an arm's first point, of that point with each other value in turn, and of its confirmation."""
    values = {key: dimension.ends() for key, dimension in arm.space.dimensions.items()}
    first = {key: texts[0] for key, texts in values.items()}
    for changed in [{}, *({key: text} for key, texts in values.items() for text in texts[1:])]:
        yield (*arm.overrides, *(f"{key}={text}" for key, text in {**first, **changed}.items()))
    if confirming:
        yield (*arm.overrides, *(f"{key}={text}" for key, text in first.items()), *confirming)
