"""Ends a verb that is stopped by Ctrl-C or SIGTERM: one sentence with what to do next, and the exit code of the signal.

In: the name of a verb. Out: the exit code 130 after Ctrl-C and 143 after SIGTERM. A training and a study have handlers
of their own while they work, which save first; this is for everything else.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

_NEXT = {
    "train": "nothing was trained after the last checkpoint. Resume a run that had begun with: "
    "ptl-prefix train resume=<run folder>. Or repeat the command.",
    "evaluate": "the predictions so far are kept. Repeat the command to continue.",
    "sweep": "finished trials are kept. Resume with: ptl-prefix sweep resume <study>.",
    "wandb": "what was uploaded is kept. Repeat the command to continue.",
}
"""What a stopped verb leaves, and what to do next, if that is more than repeating the command."""


class _Terminated(BaseException):
    """SIGTERM reached a verb."""


@contextmanager
def stopped_by_signals(verb: Callable[[], str]) -> Iterator[None]:
    """Exit with 130 if Ctrl-C, and with 143 if SIGTERM ends the block.

    Args:
        verb: Called after a stop for the name of the verb that ran in the block.
    """
    # Only in place of the default, which would end the process without a word.
    handles = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if handles:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except KeyboardInterrupt:
        _end(verb(), signal.SIGINT)
    except _Terminated:
        _end(verb(), signal.SIGTERM)
    finally:
        if handles:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _end(verb: str, number: signal.Signals) -> NoReturn:
    what_next = _NEXT.get(verb, "repeat the command to start again.")
    click.echo(f"Stopped by {number.name}: {what_next}", err=True)
    raise SystemExit(128 + number)
