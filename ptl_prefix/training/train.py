"""One training, from a plan to a run folder with a record and a bundle.

In: a `Plan` and a folder. Out: `config.yaml`, `events.jsonl`, `checkpoints/`, `bundle/` and `record.json` in that
folder, and `model/` if the whole backbone was trained. A run that was stopped or killed at any moment is resumed from
its last checkpoint, and ends with the same numbers as an uninterrupted one.
"""

import signal
from contextlib import nullcontext

import torch
from rich.console import Console

from ptl_prefix.artifacts.event_log import drop_events_after
from ptl_prefix.artifacts.run_config import write_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import RankError
from ptl_prefix.tracking.disk_sink import DiskSink
from ptl_prefix.tracking.events import EventStream, NoSink, RunFacts
from ptl_prefix.training.meter import Meter
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.ranks import ONE_RANK, Ranks, report_lost_ranks
from ptl_prefix.training.run_context import RunContext
from ptl_prefix.training.run_inputs import load_run_inputs
from ptl_prefix.training.run_recorder import RunRecorder
from ptl_prefix.training.stopping import RunStopped, StopSignals
from ptl_prefix.training.training_run import Outcome, TrainingRun


def train(
    plan: Plan, folder: RunFolder, *, resume: bool = False, console: Console | None = None, ranks: Ranks = ONE_RANK
) -> Outcome:
    """Train, or resume a training. Every rank must call this; only rank 0 writes to the folder.

    Args:
        plan: Plan of the training.
        folder: Run folder.
        resume: Whether to resume from `checkpoints/last.ckpt`; if there is none, the run starts from the beginning.
        console: Console for progress; `None` is standard error.
        ranks: Ranks that train together.

    Raises:
        NonFiniteLossError: If a loss is NaN or infinite; the last good checkpoint is kept.
        RunError: If another process holds the folder, or the ranks' configs differ.
        RankError: If another rank exited.
    """
    ranks.require_same_config(plan.config)
    with folder.held() if ranks.is_rank_zero else nullcontext():
        return _train(plan, folder, resume=resume, console=console, ranks=ranks)


def _train(plan: Plan, folder: RunFolder, *, resume: bool, console: Console | None, ranks: Ranks) -> Outcome:
    resumed_step = ranks.from_rank_zero(lambda: _prepare(plan, folder, resume=resume))
    console = console if console and ranks.is_rank_zero else Console(stderr=True, quiet=not ranks.is_rank_zero)
    signals = StopSignals(console, ranks)
    facts = _facts(plan, folder, resumed_step, console, signals)
    events = _events(plan, facts, ranks)
    meter = Meter(events, log_every_n_steps=int(plan.trainer.get("log_every_n_steps") or 50), ranks=ranks)
    recorder = RunRecorder(plan, folder, events, meter, writes=ranks.is_rank_zero)
    exit_code = 1
    try:
        with signals, report_lost_ranks():
            events.open(facts)
            if resumed_step is None:
                recorder.log_start()
            inputs = load_run_inputs(plan, ranks, console)
            context = RunContext(
                folder=folder, events=events, console=console, meter=meter, signals=signals, ranks=ranks
            )
            outcome = TrainingRun(plan, inputs, recorder, context).run(resumed_step)
        exit_code = 0
        return outcome
    except RunStopped as stop:
        exit_code = 128 + signal.Signals[stop.signal_name]
        return Outcome(recorder.finish("stopped"), [], [], signal=stop.signal_name)
    except Exception as error:
        if isinstance(error, RankError) and signals.requested:  # the other ranks stopped first
            exit_code = 128 + signal.Signals[signals.requested]
            return Outcome(recorder.finish("stopped"), [], [], signal=signals.requested)
        events.write("error", step=meter.steps, error=f"{type(error).__name__}: {error}")
        recorder.finish("failed")
        raise
    finally:
        events.close(exit_code)


def _events(plan: Plan, facts: RunFacts, ranks: Ranks) -> EventStream:
    """The event stream of this rank; only rank 0 writes events, for all ranks."""
    if not ranks.is_rank_zero:
        return EventStream(NoSink())
    return EventStream(DiskSink(), plan.tracking.sinks(), facts.notify, plan.tracking.close_timeout_s)


def _facts(plan: Plan, folder: RunFolder, resumed_step: int | None, console: Console, signals: StopSignals) -> RunFacts:
    """The facts of the run that its sinks need."""
    return RunFacts(
        run_id=plan.run_id,
        folder=folder,
        config=plan.config,
        resumed_step=resumed_step,
        notify=lambda what: console.print(what, highlight=False, soft_wrap=True) if plan.shows_progress else None,
        request_stop=signals.request_stop,
    )


def _prepare(plan: Plan, folder: RunFolder, *, resume: bool) -> int | None:
    """Write the config, and drop the events after the checkpoint that the run resumes from.

    Returns:
        Step of that checkpoint; `None` if the run starts from the beginning.
    """
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    folder.record.unlink(missing_ok=True)  # a resumed run has not ended
    if resume and folder.last.exists():
        step = int(torch.load(folder.last, map_location="cpu", weights_only=True)["global_step"])
        drop_events_after(folder.events, step)
        return step
    write_config(folder, plan.config)
    drop_events_after(folder.events, -1)
    return None
