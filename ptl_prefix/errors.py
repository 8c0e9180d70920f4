"""The errors that a caller may catch.

Each message says the law, the fact and the way out. `ValueError` remains for a wrong argument, `assert` for what only
a programmer of this package can cause.
"""

from collections.abc import Sequence


class PtlPrefixError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(PtlPrefixError):
    """A config that cannot run. Holds every mistake, so that one attempt shows all of them.

    Args:
        mistakes: One sentence each: the law, the fact, the way out.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        lines = "\n".join(f"  - {mistake}" for mistake in self.mistakes)
        noun = "mistake" if len(self.mistakes) == 1 else "mistakes"
        super().__init__(f"The config has {len(self.mistakes)} {noun}; nothing was loaded:\n{lines}")


class BackboneError(PtlPrefixError):
    """A backbone that cannot be loaded, or whose family cannot carry a prefix."""


class BackboneBusyError(PtlPrefixError):
    """A second thread tried to use a backbone whose slots belong to another."""


class DataError(PtlPrefixError):
    """A data file that is missing, malformed or breaks a rule of its task."""


class BundleError(PtlPrefixError):
    """A bundle that is refused: damaged, foreign, or made for another backbone."""


class RunError(PtlPrefixError):
    """A run folder that cannot be read, resumed or exported."""


class RankError(RunError):
    """One of the processes that train together is gone; the others end with this."""


class ComparisonError(PtlPrefixError):
    """Runs that may not stand in one table: what they say does not mean the same."""


class NonFiniteLossError(PtlPrefixError):
    """Training met a loss that is not a number; the last good checkpoint is kept."""


class SweepError(PtlPrefixError):
    """A study that cannot begin or go on, or that did not end as it should."""
