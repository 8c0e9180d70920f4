"""What a command line asks of a sweep, read with Hydra's grammar and checked whole.

In: overrides, some of which are several values, and `hydra.sweeper`. Out: a `StudySpec` whose every listed value, and
both ends of every range, make a config without a mistake; or all mistakes at once.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ptl_prefix.commands.config.arguments import HydraFlags, quoted_override
from ptl_prefix.commands.config.compose import compose_and_check, composed_for_study
from ptl_prefix.commands.config.instantiate import build, target_values
from ptl_prefix.commands.config.validate import node_problems
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.sweep.parse_space import as_choice, dimension_of, is_swept
from ptl_prefix.errors import ConfigError
from ptl_prefix.settings import argument_problems
from ptl_prefix.sweeping.result_cache import code_fingerprint
from ptl_prefix.sweeping.search_space import MOST_LISTED, SearchSpace
from ptl_prefix.sweeping.storage import absolute_url
from ptl_prefix.sweeping.study_spec import Arm, Budget, Confirmation, StudySpec
from ptl_prefix.sweeping.sweeper_settings import SweeperSettings

OUR_SWEEPER = "hydra_plugins.ptl_prefix_sweeper.StudySweeper"
_HYDRAS_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_GROUP = "hydra/sweeper"
_WHERE = "hydra.sweeper"


@dataclass(frozen=True)
class Asked:
    """A spec, and where its study lies.

    Args:
        spec: Checked.
        folder: Of the study.
        storage: A URL, or `None` for a journal in the folder.
        config: That of the first trial, for what has to be known of all of them.
        ours: Overrides that make Hydra take our sweeper.
    """

    spec: StudySpec
    folder: Path
    storage: str | None
    config: Mapping[str, Any]
    ours: tuple[str, ...]


@dataclass(frozen=True)
class Sweeper:
    """Who runs the jobs of a command line.

    Args:
        hydra: `hydra` of the composed config, without what is swept over; `None` if it does not compose.
        ours: Overrides that make Hydra itself see the same.
        single: Overrides of one value, as Hydra accepts them before anything that is searched is chosen.
    """

    hydra: DictConfig | None
    ours: tuple[str, ...]
    single: tuple[str, ...]

    @property
    def warm(self) -> bool:
        """Whether trials are to begin as copies, as far as that is a sensible answer."""
        return self.hydra is not None and self.hydra.sweeper.get("warm") is True


def sweeper_of(verb: Verb, overrides: Sequence[str], flags: HydraFlags) -> Sweeper:
    """Hydra's own sweeper, unless it is asked for, gives way to ours: its jobs share one process.

    Raises:
        ConfigError: If the overrides of one value compose in no way.
    """
    single = tuple(text for text in overrides if not is_swept(text))
    hydra = composed_for_study(verb, single, flags)
    is_chosen = any(text.startswith(f"{_GROUP}=") for text in overrides)
    # Settings of ours are known where our sweeper is, which may still have to be chosen.
    ours = () if is_chosen or (hydra is not None and hydra.sweeper._target_ != _HYDRAS_SWEEPER) else (f"{_GROUP}=grid",)
    if ours:
        hydra = composed_for_study(verb, (*ours, *single), flags)
    if hydra is None and len(single) < len(overrides):
        # Some key may be there only by a choice that is searched, such as one of several experiments.
        single = _accepted_single(verb, overrides, flags)
        hydra = composed_for_study(verb, (*ours, *single), flags)
    return Sweeper(hydra, ours, single)


def _accepted_single(verb: Verb, overrides: Sequence[str], flags: HydraFlags) -> tuple[str, ...]:
    listed = tuple(as_choice(text, flags.config_dir) if is_swept(text) else text for text in overrides)
    checked = compose_and_check(verb, listed, flags).overrides
    return tuple(text for text, given in zip(checked, overrides, strict=True) if not is_swept(given))


def ask(verb: Verb, overrides: Sequence[str], flags: HydraFlags, sweeper: Sweeper | None = None) -> Asked:
    """The spec of a command line.

    Args:
        verb: Whose.
        overrides: What was given.
        flags: Of Hydra.
        sweeper: That of this command line, if it is known already.

    Raises:
        ConfigError: With every mistake, before anything is trained.
    """
    sweeper = sweeper or sweeper_of(verb, overrides, flags)
    hydra, ours, given = sweeper.hydra, sweeper.ours, sweeper.single
    if hydra is None:
        compose_and_check(verb, overrides, flags)  # which says why
        raise AssertionError("a config that does not compose has mistakes")
    node: dict[str, Any] = OmegaConf.to_container(hydra.sweeper, resolve=True)  # type: ignore[assignment]
    mistakes: list[str] = []
    settings = _settings(node, mistakes)
    if settings is None:
        raise ConfigError(mistakes)
    swept = [text for text in overrides if is_swept(text)]
    # Where Hydra puts the sweep and how it is searched is settled now, and nothing of a trial. The sweeper's name
    # stays: files may set keys that only this one has.
    settled = [text for text in given if text.lstrip("+").startswith(("hydra.sweep", "hydra/sweeper/"))]
    single = [text for text in given if text not in settled]
    ours = (*ours, *(text for text in settled if not text.lstrip("+").startswith("hydra.sweep.")))
    arms = list(_arms(settings, swept, flags.config_dir, mistakes))
    if mistakes:
        raise ConfigError(mistakes)
    folder = Path(str(hydra.sweep.dir))
    config = _checked(verb, single, arms, flags)
    spec = _spec(settings, node, arms, single, folder.name, flags.config_name or verb.name)
    if problems := _problems(spec, settings, config):
        raise ConfigError(problems)
    return Asked(spec, folder, absolute_url(settings.storage), config, ours)


def _settings(node: Mapping[str, Any], mistakes: list[str]) -> SweeperSettings | None:
    values = {key: value for key, value in target_values(node).items() if key != "_recursive_"}
    mistakes += argument_problems(SweeperSettings, values, _WHERE)
    for part in ("sampler", "pruner"):
        if isinstance(values.get(part), Mapping) and "_target_" in values[part]:
            mistakes += node_problems(f"{_WHERE}.{part}", values[part])
        else:
            mistakes.append(f"`{_WHERE}.{part}` must be chosen by hydra/sweeper/{part}=, but is {values.get(part)!r}.")
    if mistakes:
        return None
    settings = SweeperSettings(**values)
    mistakes += settings.problems()
    return settings


def _spec(
    settings: SweeperSettings,
    node: Mapping[str, Any],
    arms: Sequence[Arm],
    single: Sequence[str],
    name: str,
    config: str,
) -> StudySpec:
    confirmed = settings.confirm_top_k
    return StudySpec(
        name=settings.study_name or name,
        token=secrets.token_hex(3),
        config_name=config,
        overrides=list(single),
        arms=list(arms),
        direction=settings.direction,
        objective=settings.objective,
        budget=Budget(trials=settings.n_trials, seconds=settings.budget_s, tokens=settings.budget_tokens),
        confirmation=Confirmation(top_k=confirmed, seeds=list(settings.confirm_seeds)) if confirmed else None,
        sampler=node["sampler"],
        pruner=node["pruner"],
        max_failure_rate=settings.max_failure_rate,
        workers=settings.n_jobs,
        threads=settings.threads,
        devices=list(settings.devices),
        warm=settings.warm,
        reuse=settings.reuse,
        code=code_fingerprint(),
    )


def _problems(spec: StudySpec, settings: SweeperSettings, config: Mapping[str, Any]) -> list[str]:
    """What only shows when all of it is there."""
    problems = _misplaced(spec, config)
    sampler, pruner = build(spec.sampler), build(spec.pruner)
    budget = spec.budget
    for arm in spec.arms:
        where = f" of arm {arm.name}" if arm.name else ""
        if not arm.space.dimensions and len(spec.arms) == 1 and not sampler.lists_points:
            problems.append(
                "A sweep must have something to search, but nothing has several values; write -m key=1,2 or "
                "`hydra.sweeper.params`."
            )
        if sampler.lists_points and arm.space.size is None:
            law = "The sampler takes points in turn"
            fact = f"but the space{where} has an interval, or more than {MOST_LISTED:,} points"
            problems.append(f"{law}, {fact}; take tpe or random.")
        if arm.space.size is None and budget.trials is None and budget.seconds is None and budget.tokens is None:
            problems.append(f"The search{where} must end, but has neither n_trials nor a budget.")
    if pruner.prunes and spec.objective != "val/loss":
        problems.append(
            "Pruning needs `hydra.sweeper.objective` to be val/loss, the one number that a run has on its way, "
            f"but it is {spec.objective}."
        )
    metrics = build(config["task"]).metrics
    known = ["val/loss", *(f"{split}/{name}" for split in ("test", "val") for name in metrics)]
    if spec.objective not in known:
        problems.append(
            f"`hydra.sweeper.objective` must be a number that a run has at its end ({', '.join(known)}), but is "
            f"{spec.objective!r}."
        )
    return problems


def _misplaced(spec: StudySpec, config: Mapping[str, Any]) -> list[str]:
    """What belongs to a single run."""
    problems = []
    if config.get("dry_run"):
        problems.append("`dry_run` shows a single run; `ptl-prefix sweep plan` shows what a study will take.")
    if any(text.lstrip("+").startswith("hydra.run.dir=") for text in spec.overrides):
        problems.append("`hydra.run.dir` is not read with -m; the jobs of a sweep are in `hydra.sweep.dir`.")
    return problems


# What is several


def _arms(
    settings: SweeperSettings, swept: Sequence[str], config_dir: str | None, mistakes: list[str]
) -> Iterator[Arm]:
    """The arms, and in each what the command line searches as well."""
    common = dict(dimension_of(text, mistakes, config_dir) for text in swept)
    for name, arm in (settings.arms or {"": {"params": settings.params}}).items():
        texts = [quoted_override(f"{key}={value}", sweeping=True) for key, value in (arm.get("params") or {}).items()]
        own = [text for text in texts if is_swept(text)]
        mistakes += [
            f"A parameter of a sweep must be choice(...), interval(...), range(...) or a,b, but is {text}."
            for text in texts
            if text not in own
        ]
        dimensions = dict(dimension_of(text, mistakes, config_dir) for text in own) | common
        found = {key: one for key, one in dimensions.items() if one is not None}
        yield Arm(name=name, overrides=list(arm.get("overrides") or []), space=SearchSpace(found))


# Whether all of it is legal


def _checked(verb: Verb, single: Sequence[str], arms: Sequence[Arm], flags: HydraFlags) -> Mapping[str, Any]:
    """The config of the first trial, while every value of every arm is checked: their sum, not their product."""
    mistakes: dict[str, None] = {}
    first: Mapping[str, Any] | None = None
    for arm in arms:
        ends = {key: dimension.ends() for key, dimension in arm.space.dimensions.items()}
        start = {key: values[0] for key, values in ends.items()}
        for changed in [{}, *({key: value} for key, values in ends.items() for value in values[1:])]:
            point = [f"{key}={value}" for key, value in {**start, **changed}.items()]
            try:
                config = compose_and_check(verb, (*single, *arm.overrides, *point), flags.without_multirun()).config
                first = first or config
            except ConfigError as error:
                mistakes.update(dict.fromkeys(error.mistakes))
    if mistakes:
        raise ConfigError(list(mistakes))
    assert first is not None
    return first
