"""Whether the engine works: its heartbeat, and one generation at the start.

In: an engine. Out: what is wrong with it, if anything, for `/health`, `/ready` and the watchdog that ends the process.
"""

import time
from collections.abc import Callable
from typing import Literal

from ptl_prefix.serving.request import EngineLike

SelfTest = Literal["running", "passed", "failed"]


class Health:
    """The state of an engine as its server sees it.

    Args:
        engine: The engine.
        unhealthy_after_s: Age of the heartbeat, in seconds, at which `/health` fails.
        exit_after_s: Seconds for which the engine may be unhealthy before the process ends.
        clock: Seconds, as `time.monotonic` counts them.
    """

    def __init__(
        self,
        engine: EngineLike,
        *,
        unhealthy_after_s: float,
        exit_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._unhealthy_after_s = unhealthy_after_s
        self._exit_after_s = exit_after_s
        self._clock = clock
        self._unhealthy_since_s: float | None = None
        self.self_test: SelfTest = "running"
        """Whether the generation at the start succeeded."""

    def problem(self) -> str | None:
        """What is wrong with the engine now; `None` if it works."""
        if not self._engine.is_alive:
            return "the engine's thread has ended"
        age = self._engine.status().heartbeat_age_s
        return None if age <= self._unhealthy_after_s else f"the engine's loop has not come round for {age:.1f} s"

    def fatal_problem(self) -> str | None:
        """Why the process must end; `None` if it need not. It is asked again and again, to see how long that lasts."""
        if (problem := self.problem()) is None:
            self._unhealthy_since_s = None
            return None
        if self._unhealthy_since_s is None:
            self._unhealthy_since_s = self._clock()
        return problem if self._clock() - self._unhealthy_since_s >= self._exit_after_s else None

    def unready(self) -> str | None:
        """Why requests should go elsewhere; `None` if the server is ready."""
        if self.self_test == "passed":
            return self.problem()
        return f"the generation at the start {'is running' if self.self_test == 'running' else 'has failed'}"
