"""One training, from a plan to a run folder with a record and a bundle.

In: a `Plan` and a folder. Out: `config.yaml`, `events.jsonl`, `checkpoints/`, `bundle/` and `record.json` in that
folder, and `model/` where the whole backbone was trained. Stopped or killed at any moment, the same call with `resume`
goes on from the last checkpoint to the same numbers.
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
from ptl_prefix.training.ranks import ONE_RANK, Ranks, hearing_of_gone_ranks
from ptl_prefix.training.run_context import RunContext
from ptl_prefix.training.run_inputs import load_run_inputs
from ptl_prefix.training.run_recorder import Ledger
from ptl_prefix.training.session import Outcome, Session
from ptl_prefix.training.stopping import RunStopped, StopSignals


def train(
    plan: Plan, folder: RunFolder, *, resume: bool = False, console: Console | None = None, ranks: Ranks = ONE_RANK
) -> Outcome:
    """Run a training, or go on with one. Of several ranks each calls this, and the first writes to the folder.

    Args:
        plan: What is trained.
        folder: The run's folder.
        resume: Go on from `checkpoints/last.ckpt`; without one, start from the beginning.
        console: Where progress is shown.
        ranks: Who trains together.

    Raises:
        NonFiniteLossError: When a loss is not a number; the last good checkpoint is kept.
        RunError: When another process is at work in the folder, or the ranks have different configs.
        RankError: When another rank is gone.
    """
    ranks.must_agree(plan.config)
    with folder.held() if ranks.is_first else nullcontext():
        return _train(plan, folder, resume=resume, console=console, ranks=ranks)


def _train(plan: Plan, folder: RunFolder, *, resume: bool, console: Console | None, ranks: Ranks) -> Outcome:
    resumed_step = ranks.of_first(lambda: _prepare(plan, folder, resume=resume))
    console = console if console and ranks.is_first else Console(stderr=True, quiet=not ranks.is_first)
    signals = StopSignals(console, ranks)
    facts = _facts(plan, folder, resumed_step, console, signals)
    events = _events(plan, facts, ranks)
    meter = Meter(events, log_every_n_steps=int(plan.trainer.get("log_every_n_steps") or 50), ranks=ranks)
    ledger = Ledger(plan, folder, events, meter, writes=ranks.is_first)
    exit_code = 1
    try:
        with signals, hearing_of_gone_ranks():
            events.open(facts)
            if resumed_step is None:
                ledger.begin()
            material = load_run_inputs(plan, ranks)
            context = RunContext(
                folder=folder, events=events, console=console, meter=meter, signals=signals, ranks=ranks
            )
            outcome = Session(plan, material, ledger, context).run(resumed_step)
        exit_code = 0
        return outcome
    except RunStopped as stop:
        exit_code = 128 + signal.Signals[stop.signal_name]
        return Outcome(ledger.close("stopped"), [], [], signal=stop.signal_name)
    except Exception as error:
        if isinstance(error, RankError) and signals.requested:  # the others have heard the signal first, and are gone
            exit_code = 128 + signal.Signals[signals.requested]
            return Outcome(ledger.close("stopped"), [], [], signal=signals.requested)
        events.write("error", step=meter.steps, error=f"{type(error).__name__}: {error}")
        ledger.close("failed")
        raise
    finally:
        events.close(exit_code)


def _events(plan: Plan, facts: RunFacts, ranks: Ranks) -> EventStream:
    """Where events go; those of later ranks go nowhere, as the first one's are those of all."""
    if not ranks.is_first:
        return EventStream(NoSink())
    return EventStream(DiskSink(), plan.tracking.sinks(), facts.notify, plan.tracking.close_timeout_s)


def _facts(plan: Plan, folder: RunFolder, resumed_step: int | None, console: Console, signals: StopSignals) -> RunFacts:
    """What the run's sinks know of it."""
    return RunFacts(
        run_id=plan.run_id,
        folder=folder,
        config=plan.config,
        resumed_step=resumed_step,
        notify=lambda what: console.print(what, highlight=False, soft_wrap=True) if plan.shows_progress else None,
        request_stop=signals.request_stop,
    )


def _prepare(plan: Plan, folder: RunFolder, *, resume: bool) -> int | None:
    """A folder with a config, and a log that says nothing of what is still to come.

    Returns:
        The step that the run goes on from; `None` if it begins.
    """
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    folder.record.unlink(missing_ok=True)  # how a run ended that goes on is no longer true
    if resume and folder.last.exists():
        step = int(torch.load(folder.last, map_location="cpu", weights_only=True)["global_step"])
        drop_events_after(folder.events, step)
        return step
    write_config(folder, plan.config)
    drop_events_after(folder.events, -1)
    return None
