"""Which rows of a run's history a server has, told by the newest of them.

In: that row. Out: for each row of the run's log, in their order, whether it was sent. Counting would not do: a run that
was killed and resumed has told some steps twice.
"""

from collections.abc import Collection


class ServerRows:
    """What was sent up to some row.

    Args:
        step: Of the newest row.
        names: What it has; of one step there may be several rows.
    """

    def __init__(self, step: int, names: Collection[str]) -> None:
        self._step, self._names = step, frozenset(names)
        self._is_passed = False

    def has(self, step: int, names: Collection[str]) -> bool:
        """Whether the row was sent. To be asked for one row after the other."""
        if self._is_passed or step > self._step:
            return False
        self._is_passed = step == self._step and frozenset(names) == self._names
        return True
