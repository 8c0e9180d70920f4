"""The errors that a caller may catch.

Each message says what must hold, what was found and what to do. `ValueError` remains for a wrong argument, and `assert`
for a mistake in this package itself.
"""

import errno
from collections.abc import Sequence
from pathlib import Path


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


class RequestError(PtlPrefixError):
    """A request to the server that it cannot take, such as one for an unknown model or of too many tokens."""


class HubError(PtlPrefixError):
    """What must be on the Hugging Face hub is not there, cannot be reached, or is refused."""


class ObjectStoreError(PtlPrefixError):
    """What must be in an object store is not there, cannot be reached, or is refused."""


class RunError(PtlPrefixError):
    """A run folder that cannot be read, resumed or exported."""


class ChangedInputsError(RunError):
    """A run that cannot be resumed, as its data, weights, tokenizer or code are others than it was trained with."""


class RankError(RunError):
    """Another rank of the run exited; the remaining ranks raise this."""


class ComparisonError(PtlPrefixError):
    """Runs that cannot be compared, such as runs of different versions of a task."""


class NonFiniteLossError(PtlPrefixError):
    """A loss or gradient became NaN or infinite; the last good checkpoint is kept."""


class SweepError(PtlPrefixError):
    """A study that cannot start or resume, or that did not end well."""


class StorageError(PtlPrefixError, OSError):
    """A file that the disk did not take; what was at its path before is still there.

    Args:
        path: File or folder that was to be written.
        error: Error of the system.
        num_bytes: Bytes that were to be written; `None` if that is not known.
    """

    def __init__(self, path: str | Path, error: OSError, num_bytes: int | None = None) -> None:
        fact, way_out = _DISK_FACTS.get(error.errno or 0, ("refuses it", "choose another folder"))
        needed = "" if num_bytes is None else f", which needs {num_bytes:,} bytes,"
        reason = error.strerror or str(error)
        super().__init__(
            f"{path} must be written{needed} but the disk {fact} ({reason}); {way_out}, then resume or repeat."
        )
        self.errno, self.strerror = error.errno, error.strerror
        self.num_bytes = num_bytes

    def __str__(self) -> str:
        """The sentence alone, where other errors of the system begin with a number."""
        return str(self.args[0])

    @staticmethod
    def describes(error: OSError) -> bool:
        """Whether the disk is the cause of an error: full, without inodes or quota, failing, or not writable."""
        return error.errno in _DISK_FACTS


_DISK_FACTS = {
    errno.ENOSPC: ("is full, or has no inodes left", "free some of it, or choose another folder"),
    errno.EDQUOT: ("has no quota left", "remove files of yours, or choose another folder"),
    errno.EFBIG: ("takes no file of this size", "choose another folder"),
    errno.EIO: ("fails", "copy what is there to another disk"),
    errno.EROFS: ("is read-only", "make it writable, or choose another folder"),
    errno.EACCES: ("does not permit it", "change the permissions, or choose another folder"),
    errno.ENAMETOOLONG: ("takes no name of this length", "choose a shorter one"),
    errno.EPERM: ("does not permit it", "change the permissions, or choose another folder"),
}
"""What an error number says of the disk, and what to do."""
