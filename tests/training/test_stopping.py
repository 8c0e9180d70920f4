import io
import signal
import threading
from signal import SIGINT, SIGTERM
from typing import Any

import pytest
from rich.console import Console

from ptl_prefix.training.stopping import RunStopped, StopSignals


@pytest.fixture
def heard() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def signals(heard: io.StringIO) -> StopSignals:
    return StopSignals(Console(file=heard))


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_while_nothing_is_trained_a_stop_comes_at_once(signals: StopSignals, number: signal.Signals) -> None:
    with pytest.raises(RunStopped) as stop, signals:
        signal.raise_signal(number)

    assert stop.value.signal_name == number.name


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_while_batches_are_trained_a_stop_waits_and_says_so(
    signals: StopSignals, heard: io.StringIO, number: signal.Signals
) -> None:
    with signals:
        signals.on_train_start()
        signal.raise_signal(number)

    assert signals.requested == number.name
    assert f"{number.name}: saving at the end of this step" in heard.getvalue()


def test_a_second_ctrl_c_does_not_wait(signals: StopSignals) -> None:
    with signals:
        signals.on_train_start()
        signal.raise_signal(SIGINT)
        with pytest.raises(RunStopped):
            signal.raise_signal(SIGINT)


def test_a_second_sigterm_is_as_patient_as_the_first(signals: StopSignals) -> None:
    with signals:
        signals.on_train_start()
        signal.raise_signal(SIGTERM)
        signal.raise_signal(SIGTERM)

    assert signals.requested == "SIGTERM"


def test_after_training_a_stop_comes_at_once_again(signals: StopSignals) -> None:
    with signals:
        signals.on_train_start()
        signals.on_train_end()
        with pytest.raises(RunStopped):
            signal.raise_signal(SIGTERM)


def test_signals_are_taken_back_from_whoever_took_them_meanwhile(signals: StopSignals) -> None:
    with signals:
        signal.signal(SIGTERM, lambda *_: pytest.fail("Lightning's handler was called"))
        signals.on_train_start()
        signal.raise_signal(SIGTERM)

    assert signals.requested == "SIGTERM"


def test_the_usual_handlers_come_back(signals: StopSignals) -> None:
    usual = [signal.getsignal(number) for number in (SIGINT, SIGTERM)]

    with signals:
        signals.on_train_start()
        assert [signal.getsignal(number) for number in (SIGINT, SIGTERM)] != usual

    assert [signal.getsignal(number) for number in (SIGINT, SIGTERM)] == usual


def test_outside_the_main_thread_nothing_is_touched(signals: StopSignals) -> None:
    usual = signal.getsignal(SIGINT)
    seen = []

    def enter() -> None:
        with signals:
            signals.on_train_start()
            seen.append(signal.getsignal(SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()

    assert seen == [usual]


def test_no_library_takes_a_stop_for_an_error() -> None:
    assert not issubclass(RunStopped, Exception)


class Late:
    """Ranks that a signal reaches while they agree that there was none."""

    def __init__(self) -> None:
        self.calls = 0

    def largest(self, number: int) -> int:
        self.calls += 1
        if self.calls == 1:
            signal.raise_signal(SIGTERM)
        return number


def test_a_signal_that_comes_while_ranks_agree_is_heard_at_the_next_step(heard: io.StringIO) -> None:
    ranks: Any = Late()
    signals = StopSignals(Console(file=heard), ranks)
    with signals:
        signals.on_train_start()

        assert [signals.agree_on_stop() for _ in range(3)] == [
            None,
            "SIGTERM",
            "SIGTERM",
        ]
