import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.tracking.events import EventStream
from ptl_prefix.training import meter as meter_module
from ptl_prefix.training.meter import Meter, peak_memory_bytes
from ptl_prefix.training.progress_bar import ProgressBar


class ListSink:
    """Keeps events in memory."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        self.events.append({"kind": kind, "step": step, **values})

    def close(self) -> None: ...


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meter_module, "time", clock)
    return clock


BATCH = ModelInputs(torch.ones(2, 6, dtype=torch.long), torch.tensor([[1] * 6, [1] * 4 + [0] * 2]))
METHOD = SimpleNamespace(tracked_norms=lambda: {"trained": 5.0})
MODULE: Any = SimpleNamespace(last_step={"train/loss": 2.0, "lr": 0.1}, method=METHOD)


def trainer_at(batch: int, *, accumulation: int = 1, max_steps: int = 10) -> Any:
    """Lightning's trainer after some batches, as callbacks see it."""
    return SimpleNamespace(
        global_step=batch // accumulation,
        max_steps=max_steps,
        accumulate_grad_batches=accumulation,
        fit_loop=SimpleNamespace(total_batch_idx=batch - 1),
        callback_metrics={"val/loss": torch.tensor(1.5)},
        precision_plugin=None,
    )


def train_batches(meter: Meter, clock: Clock, batches: range, *, seconds: float, accumulation: int = 1) -> None:
    for batch in batches:
        meter.on_train_batch_start()
        clock.now += seconds
        meter.on_train_batch_end(trainer_at(batch, accumulation=accumulation), MODULE, None, BATCH, batch - 1)


def test_padding_and_validation_do_not_count(clock: Clock) -> None:
    meter = Meter(EventStream(ListSink()), log_every_n_steps=100)

    train_batches(meter, clock, range(1, 3), seconds=0.5)
    clock.now += 60  # a validation
    train_batches(meter, clock, range(3, 5), seconds=0.5)

    assert meter.num_tokens == 40
    assert meter.train_s == pytest.approx(2.0)
    assert meter.tokens_per_s == pytest.approx(20.0)
    assert meter.steps == 4


def test_the_rate_before_the_first_step_is_zero() -> None:
    assert Meter(EventStream(ListSink()), log_every_n_steps=1).tokens_per_s == 0.0


def test_a_point_is_logged_every_few_steps_with_the_rate_since_the_last(clock: Clock) -> None:
    sink = ListSink()
    meter = Meter(EventStream(sink), log_every_n_steps=2)

    train_batches(meter, clock, range(1, 3), seconds=1.0)
    train_batches(meter, clock, range(3, 6), seconds=0.5)

    assert sink.events == [
        {"kind": "train", "step": 2, "train/loss": 2.0, "lr": 0.1, "tokens_per_s": 10.0, "train_s": 2.0, "tokens": 20},
        {"kind": "train", "step": 4, "train/loss": 2.0, "lr": 0.1, "tokens_per_s": 20.0, "train_s": 3.0, "tokens": 40},
    ]


def test_with_accumulation_a_point_is_logged_once_a_step(clock: Clock) -> None:
    sink = ListSink()
    meter = Meter(EventStream(sink), log_every_n_steps=1)

    train_batches(meter, clock, range(1, 9), seconds=1.0, accumulation=4)

    assert [event["step"] for event in sink.events] == [1, 2]


def test_a_validation_is_logged_in_full_precision_with_the_norm_of_the_trainable_parameters() -> None:
    sink = ListSink()
    trainer = trainer_at(3)
    trainer.callback_metrics["val/loss"] = torch.tensor(1 / 3, dtype=torch.float64)

    Meter(EventStream(sink), log_every_n_steps=1).on_validation_end(trainer, MODULE)

    costs = {"train_s": 0.0, "tokens": 0}
    assert sink.events == [{"kind": "validation", "step": 3, "val/loss": 1 / 3, "norm/trained": 5.0, **costs}]


def test_a_resumed_run_keeps_its_counts(clock: Clock) -> None:
    first = Meter(EventStream(ListSink()), log_every_n_steps=100)
    train_batches(first, clock, range(1, 5), seconds=0.5)
    sink = ListSink()
    resumed = Meter(EventStream(sink), log_every_n_steps=5)

    resumed.load_state_dict(first.state_dict())
    assert resumed.steps == 4, "also when nothing is left to train"
    train_batches(resumed, clock, range(5, 6), seconds=1.0)

    assert (resumed.num_tokens, resumed.train_s) == (50, pytest.approx(3.0))
    assert sink.events[0]["tokens_per_s"] == 10.0, "the rate of this process alone"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_has_step_loss_rate_and_time_left(is_terminal: bool, clock: Clock) -> None:
    text = io.StringIO()
    meter = Meter(EventStream(ListSink()), log_every_n_steps=1)
    bar = ProgressBar(meter, Console(file=text, force_terminal=is_terminal, width=160))
    bar.on_train_start(trainer_at(0), MODULE)
    train_batches(meter, clock, range(1, 5), seconds=0.5)

    bar.on_train_batch_end(trainer_at(4), MODULE)
    bar.on_validation_end(trainer_at(4), MODULE)
    bar.on_train_end()

    shown = text.getvalue()
    assert "4/10" in shown
    assert "val/loss 1.5" in shown
    assert "20 tokens/s" in shown
    if is_terminal:
        assert "loss 2.000" in shown
        assert "left" in shown
    else:
        assert shown.count("\n") == 1, "a log file gets one line at every validation"


def test_a_log_file_gets_a_line_every_half_minute_between_validations(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.StringIO()
    bar = ProgressBar(Meter(EventStream(ListSink()), log_every_n_steps=1), Console(file=text))
    now = bar._printed_at
    for seconds in (10.0, 29.0, 31.0, 59.0, 62.0):
        monkeypatch.setattr("ptl_prefix.training.progress_bar.time.monotonic", lambda seconds=seconds: now + seconds)
        bar.on_train_batch_end(trainer_at(4), MODULE)

    assert text.getvalue().count("step 4/10  loss") == 2


def test_a_failure_stops_the_progress_bar() -> None:
    text = io.StringIO()
    bar = ProgressBar(Meter(EventStream(ListSink()), log_every_n_steps=1), Console(file=text, force_terminal=True))
    bar.on_train_start(trainer_at(0), MODULE)

    bar.on_exception()
    bar.on_exception()

    assert text.getvalue().endswith("\x1b[?25h"), "the cursor is visible again"


def test_peak_memory_is_that_of_the_process() -> None:
    assert 10**7 < peak_memory_bytes(torch.device("cpu")) < 10**12
