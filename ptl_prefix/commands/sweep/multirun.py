"""`ptl-prefix train -m`: runs the jobs of a multirun as the trials of a study.

In: a verb, its overrides and Hydra's flags. Out: the study ran; or nothing, where another sweeper or launcher than
ours was chosen. The study is checked before Hydra is entered; Hydra then makes its folders and calls our sweeper, which
calls back here.
"""

from collections.abc import Callable, Sequence

from omegaconf import DictConfig

from ptl_prefix.commands.config.arguments import HydraFlags, quoted
from ptl_prefix.commands.config.resolvers import forget_run_ids
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.hydra_main import enter_hydra, refuse_rank_environment
from ptl_prefix.commands.sweep.choose_sweeper import OUR_SWEEPER, ChosenSweeper, choose_sweeper
from ptl_prefix.commands.sweep.parse_study import parsed_with_server
from ptl_prefix.commands.sweep.parsed_study import ParsedStudy
from ptl_prefix.errors import RunError

_studies: list[Callable[[], None]] = []
"""The study that Hydra was entered for."""


def run_as_study(verb: Verb, overrides: Sequence[str], flags: HydraFlags) -> bool:
    """Run the jobs of a multirun as a study, if our sweeper was chosen.

    Returns:
        Whether they ran. Otherwise Hydra's sweeper and launcher run the jobs.

    Raises:
        ConfigError: With every mistake, before anything is trained.
        SweepError: If trials failed.
    """
    refuse_rank_environment()
    forget_run_ids()
    sweeper = _our_sweeper(verb, overrides, flags)
    if sweeper is None:
        return False
    with parsed_with_server(verb, overrides, flags, sweeper) as (parsed, server):
        # Imported here: it takes a second, in which the trial server starts.
        from ptl_prefix.commands.sweep.command import run_parsed_study

        _run_through_hydra(verb, parsed, flags, lambda: run_parsed_study(parsed, flags, server))
    return True


def _our_sweeper(verb: Verb, overrides: Sequence[str], flags: HydraFlags) -> ChosenSweeper | None:
    """Our own sweeper, if it runs the jobs; if the config does not compose, the check that follows explains why."""
    sweeper = choose_sweeper(verb, overrides, flags)
    if sweeper.hydra is None or sweeper.hydra.sweeper.get("_target_") != OUR_SWEEPER:
        return None
    if sweeper.overrides and "dry_run=true" in (text.lower() for text in overrides):
        return None  # each job is shown, and nothing is trained
    # Who chooses a launcher wants the jobs elsewhere; our trials run on this machine.
    return sweeper if str(sweeper.hydra.launcher._target_).endswith("BasicLauncher") else None


def _run_through_hydra(verb: Verb, parsed: ParsedStudy, flags: HydraFlags, run: Callable[[], None]) -> None:
    """Enter Hydra, whose sweeper then runs the study."""
    errors: list[BaseException] = []
    was_entered: list[bool] = []

    def study() -> None:
        was_entered.append(True)
        try:
            run()
        except BaseException as error:
            errors.append(error)  # Hydra would catch it and print less

    _studies.append(study)
    try:
        in_folder = f"hydra.sweep.dir={quoted(str(parsed.folder))}"
        enter_hydra(verb, (*parsed.spec.overrides, *parsed.hydra_overrides, in_folder), flags, lambda config: None)
    finally:
        _studies.remove(study)
    if errors:
        raise errors[0]
    assert was_entered, "Hydra chose another sweeper than the check"


def run_study(config: DictConfig, arguments: Sequence[str]) -> None:
    """Run the study that Hydra was entered for; our sweeper calls this when Hydra calls it.

    Raises:
        RunError: If Hydra was entered in another way, so that nothing was checked.
    """
    if not _studies:
        raise RunError("A study must be started by `ptl-prefix train -m` or `ptl-prefix sweep`, which check it first.")
    _studies[-1]()
