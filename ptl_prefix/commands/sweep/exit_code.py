"""The exit code with which a trial ends, in a fork of its own or in a pack.

In: a function that runs it. Out: its exit code; the traceback of an error is printed.
"""

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


def exit_code_of(body: Callable[[], int | None]) -> int:
    """Run a function to its end, whatever that is.

    Args:
        body: Returns an exit code; `None` is 0.

    Returns:
        The code that it returned or exited with; 1 for an error, or for an exit with anything but a number.
    """
    try:
        return body() or 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        with suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        return 1


def exit_with(body: Callable[[], int | None]) -> NoReturn:
    """Run a function in a fork, which exits here with its exit code and never returns to the code of its parent."""
    code = 1
    try:
        code = exit_code_of(body)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
