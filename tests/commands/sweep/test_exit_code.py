"""Whatever a trial does, its process ends with an exit code."""

import os
import signal
import sys
from collections.abc import Callable

import pytest

from ptl_prefix.commands.sweep.exit_code import exit_code_of, exit_with
from ptl_prefix.errors import RunError


def stopping() -> None:
    sys.exit(128 + signal.SIGTERM)


def saying_why() -> None:
    sys.exit("The study must have room, but has none.")


def failing() -> None:
    raise RunError("A run must end.")


def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("body", "code"),
    [(lambda: None, 0), (lambda: 9, 9), (stopping, 143), (saying_why, 1), (failing, 1), (interrupted, 1)],
)
def test_every_end_has_an_exit_code(body: Callable[[], int | None], code: int) -> None:
    assert exit_code_of(body) == code


def test_the_traceback_of_an_error_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code_of(failing)
    assert "RunError: A run must end." in capsys.readouterr().err

    exit_code_of(stopping)
    assert capsys.readouterr().err == ""


class FullDisk:
    """A log to which nothing can be written any more."""

    def write(self, text: str) -> int:
        raise OSError("No space left on device")

    def flush(self) -> None:
        raise OSError("No space left on device")


@pytest.mark.parametrize(("body", "code"), [(lambda: 9, 9), (failing, 1), (stopping, 143)])
def test_a_fork_never_returns_even_if_nothing_can_be_printed(body: Callable[[], int | None], code: int) -> None:
    pid = os.fork()
    if pid == 0:
        sys.stdout = sys.stderr = FullDisk()  # type: ignore[assignment]
        try:
            exit_with(body)
        finally:
            os._exit(77)  # only if it returned or raised
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code
