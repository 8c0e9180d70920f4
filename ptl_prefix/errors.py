"""The errors that a caller may catch.

Each message says what must hold, what was found and what to do. `ValueError` remains for a wrong argument, and `assert`
for a mistake in this package itself.
"""

from collections.abc import Sequence


class PtlPrefixError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(PtlPrefixError):
    """A config that cannot run, with all of its mistakes.

    Args:
        mistakes: One sentence for each mistake.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        lines = "\n".join(f"  - {mistake}" for mistake in self.mistakes)
        noun = "mistake" if len(self.mistakes) == 1 else "mistakes"
        super().__init__(f"The config has {len(self.mistakes)} {noun}; nothing was loaded:\n{lines}")


class BackboneError(PtlPrefixError):
    """A backbone that cannot be loaded, or whose family is not supported."""


class BackboneBusyError(PtlPrefixError):
    """A thread tried to use a backbone that another thread is using."""


class DataError(PtlPrefixError):
    """A data file that is missing, malformed, or violates a rule of its task."""


class BundleError(PtlPrefixError):
    """A bundle that is damaged, of an unknown format, or trained on another backbone."""


class RunError(PtlPrefixError):
    """A run folder that cannot be read, resumed or exported."""


class RankError(RunError):
    """Another rank of the run exited; the remaining ranks raise this."""


class ComparisonError(PtlPrefixError):
    """Runs that cannot be compared, such as runs of different versions of a task."""


class NonFiniteLossError(PtlPrefixError):
    """A loss or gradient became NaN or infinite; the last good checkpoint is kept."""


class SweepError(PtlPrefixError):
    """A study that cannot start or resume, or that did not end well."""
