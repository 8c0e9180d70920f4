"""Which rows of a run's history W&B's server has.

In: the newest row on the server. Out: for each row of the run's log, in order, whether the server has it. Counting rows
is not enough: a run that was killed and resumed has logged some steps twice.
"""

from collections.abc import Collection


class ServerRows:
    """The rows on the server, up to the newest one.

    Args:
        step: Step of the newest row.
        names: Names of the values in the newest row; one step may have several rows.
    """

    def __init__(self, step: int, names: Collection[str]) -> None:
        self._step, self._names = step, frozenset(names)
        self._is_past_newest = False

    def has(self, step: int, names: Collection[str]) -> bool:
        """Whether the server has a row. Must be called for the rows in order."""
        if self._is_past_newest or step > self._step:
            return False
        self._is_past_newest = step == self._step and frozenset(names) == self._names
        return True
