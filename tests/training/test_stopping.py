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
def test_before_training_a_stop_takes_effect_at_once(signals: StopSignals, number: signal.Signals) -> None:
    with pytest.raises(RunStopped) as stop, signals:
        signal.raise_signal(number)

    assert stop.value.signal_name == number.name


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_during_training_a_stop_waits_and_is_announced(
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


def test_a_second_sigterm_waits_like_the_first(signals: StopSignals) -> None:
    with signals:
        signals.on_train_start()
        signal.raise_signal(SIGTERM)
        signal.raise_signal(SIGTERM)

    assert signals.requested == "SIGTERM"


def test_after_training_a_stop_takes_effect_at_once_again(signals: StopSignals) -> None:
    with signals:
        signals.on_train_start()
        signals.on_train_end()
        with pytest.raises(RunStopped):
            signal.raise_signal(SIGTERM)


def test_handlers_that_lightning_set_meanwhile_are_replaced(signals: StopSignals) -> None:
    with signals:
        signal.signal(SIGTERM, lambda *_: pytest.fail("Lightning's handler was called"))
        signals.on_train_start()
        signal.raise_signal(SIGTERM)

    assert signals.requested == "SIGTERM"


def test_the_previous_handlers_are_restored(signals: StopSignals) -> None:
    usual = [signal.getsignal(number) for number in (SIGINT, SIGTERM)]

    with signals:
        signals.on_train_start()
        assert [signal.getsignal(number) for number in (SIGINT, SIGTERM)] != usual

    assert [signal.getsignal(number) for number in (SIGINT, SIGTERM)] == usual


def test_outside_the_main_thread_no_handler_is_set(signals: StopSignals) -> None:
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


def test_a_stop_is_not_an_exception_that_libraries_catch() -> None:
    assert not issubclass(RunStopped, Exception)


class Late:
    """Ranks that a signal reaches while they agree that there was none."""

    def __init__(self) -> None:
        self.calls = 0

    def max(self, number: int) -> int:
        self.calls += 1
        if self.calls == 1:
            signal.raise_signal(SIGTERM)
        return number


def test_a_signal_during_the_agreement_of_ranks_takes_effect_at_the_next_step(heard: io.StringIO) -> None:
    ranks: Any = Late()
    signals = StopSignals(Console(file=heard), ranks)
    with signals:
        signals.on_train_start()

        assert [signals.agree_on_stop() for _ in range(3)] == [
            None,
            "SIGTERM",
            "SIGTERM",
        ]
