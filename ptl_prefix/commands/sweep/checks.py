"""The checks of a study that need the classes behind its configs, which take seconds to import.

In: configs as plain values. Out: sentences. The trial server has imported these classes and makes the checks, so that
the command imports neither torch nor transformers. A check that the server did not answer is made here.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ptl_prefix import settings
from ptl_prefix.commands.config.instantiate import build, target_values
from ptl_prefix.commands.config.validate import config_problems
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.sweep.objective import VALIDATION_LOSS, objective_problems
from ptl_prefix.sweeping.server_calls import NoAnswerError
from ptl_prefix.sweeping.sweeper_settings import Direction
from ptl_prefix.sweeping.trial_processes import TrialServer

Waiting = Callable[[], list[str]]
"""Waits for the problems that a check has found."""


class StudyChecks:
    """Checks the configs of a study.

    Args:
        server: Trial server that makes the checks; `None` makes them here.
    """

    def __init__(self, server: TrialServer | None) -> None:
        self._server = server

    def start_config_check(
        self, verb: Verb, config: Mapping[str, Any], groups: Mapping[str, str | None], refused_groups: Collection[str]
    ) -> Waiting:
        """Start `config_problems` with these arguments."""
        if self._server is None:
            return lambda: config_problems(verb, config, groups, refused_groups)
        configs = settings.other_configs()
        return self._start(
            find_config_problems,
            verb=verb.name,
            config=config,
            groups=groups,
            refused_groups=sorted(refused_groups),
            configs=None if configs is None else str(configs),
        )

    def start_pack_check(self, config: Mapping[str, Any]) -> Waiting:
        """Start to find what keeps the trial of a config from training in a pack."""
        return self._start(find_pack_problems, config=config)

    def objective_problems(
        self, config: Mapping[str, Any], objective: str, direction: Direction | None, *, prunes: bool
    ) -> list[str]:
        """Why a study of such trials cannot search an objective."""
        given: dict[str, Any] = {"objective": objective, "direction": direction, "prunes": prunes}
        return self._start(find_objective_problems, config=config, **given)()

    def _start(self, function: Callable[..., list[str]], **arguments: Any) -> Waiting:
        if self._server is None:
            return lambda: function(**arguments)
        answer = self._server.call(function.__name__, arguments)

        def wait() -> list[str]:
            try:
                found: list[str] = answer.result()
            except NoAnswerError:
                return function(**arguments)  # which raises the error that the server met, if there was one
            return found

        return wait


def find_config_problems(
    verb: str,
    config: Mapping[str, Any],
    groups: Mapping[str, str | None],
    refused_groups: Sequence[str],
    configs: str | None,
) -> list[str]:
    """`config_problems` of a verb by its name, with the configs of a folder such as a study's own copy."""
    with nullcontext() if configs is None else settings.read_configs_from(Path(configs)):
        return config_problems(VERBS[verb], config, groups, refused_groups)


def find_pack_problems(config: Mapping[str, Any]) -> list[str]:
    """What keeps the trial of a config from training in a pack."""
    from ptl_prefix.training.pack_problems import pack_problems

    method, trainer = build(config["method"]), target_values(config["trainer"])
    return pack_problems(
        method,
        trainer,
        config["backbone"]["base_mode"],
        caches_hidden_states=config["data"]["cache_hidden_states"],
    )


def find_objective_problems(
    config: Mapping[str, Any], objective: str, direction: Direction | None, prunes: bool
) -> list[str]:
    """Why a study of such trials cannot search an objective."""
    select_by = config.get("training", {}).get("select_by", VALIDATION_LOSS)
    return objective_problems(objective, direction, build(config["task"]), select_by=select_by, prunes=prunes)
