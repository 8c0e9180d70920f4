"""The checks of a study that need the classes behind its configs, which take seconds to import.

In: configs as plain values. Out: sentences. The trial server has imported these classes and makes the checks, so that
the command imports neither torch nor transformers. A check that the server did not answer is made here.
"""

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ptl_prefix import settings
from ptl_prefix.commands.config.validate import config_problems
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.sweeping.server_calls import NoAnswerError
from ptl_prefix.sweeping.sweeper_settings import Direction
from ptl_prefix.sweeping.trial_processes import TrialServer

FUNCTIONS = "ptl_prefix.commands.sweep.server_checks"
"""The module of the checks; its classes are imported where a check is made."""

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
            "find_config_problems",
            verb=verb.name,
            config=config,
            groups=groups,
            refused_groups=sorted(refused_groups),
            configs=None if configs is None else str(configs),
        )

    def start_pack_check(self, config: Mapping[str, Any]) -> Waiting:
        """Start to find what keeps the trial of a config from training in a pack."""
        return self._start("find_pack_problems", config=config)

    def objective_problems(
        self, config: Mapping[str, Any], objective: str, direction: Direction | None, *, prunes: bool
    ) -> list[str]:
        """Why a study of such trials cannot search an objective."""
        given: dict[str, Any] = {"objective": objective, "direction": direction, "prunes": prunes}
        return self._start("find_objective_problems", config=config, **given)()

    def _start(self, function: str, **arguments: Any) -> Waiting:
        if self._server is None:
            return lambda: _made_here(function, arguments)
        answer = self._server.call(function, arguments)

        def wait() -> list[str]:
            try:
                found: list[str] = answer.result()
            except NoAnswerError:
                return _made_here(function, arguments)  # which raises the error that the server met, if there was one
            return found

        return wait


def _made_here(function: str, arguments: Mapping[str, Any]) -> list[str]:
    found: list[str] = getattr(importlib.import_module(FUNCTIONS), function)(**arguments)
    return found
