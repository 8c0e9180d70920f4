"""Standard output and standard error, whatever they are connected to.

In: the process's streams. Out: characters that a console cannot show appear as escapes, and a full or closed output
ends the command with one sentence instead of a traceback. This file imports nothing heavy.
"""

import errno
import io
import os
import sys


def escape_unknown_characters() -> None:
    """Show characters that a console's encoding lacks as escapes such as `\\xe9`, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def output_failure(error: OSError) -> str | None:
    """The sentence about an error that came from writing standard output; `None` for any other error."""
    if error.errno not in (errno.ENOSPC, errno.EPIPE):
        return None
    fact = "is full" if error.errno == errno.ENOSPC else "was closed by its reader"
    return f"Standard output must take everything that is printed, but it {fact} ({os.strerror(error.errno)})."


def output_refuses() -> bool:
    """Whether standard output takes nothing more; what is in its buffer stays there."""
    try:
        sys.stdout.flush()
        if isinstance(getattr(sys.stdout, "buffer", None), io.FileIO):
            os.write(sys.stdout.fileno(), b"\n")  # an unbuffered output has nothing left to try again
    except OSError:
        return True
    return False


def flush_output() -> OSError | None:
    """Write what is still in the buffer of standard output; return the error if that is not possible."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # The interpreter flushes once more when it exits, and would print a traceback.
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        return error
    return None
