"""One training, from a plan to a run folder with a record and a bundle.

In: a `Plan` and a folder. Out: `config.yaml`, `events.jsonl`, `checkpoints/`, `bundle/` and `record.json` in that
folder, and `model/` if the whole backbone was trained. A run that was stopped or killed at any moment is resumed from
its last checkpoint, and ends with the same numbers as an uninterrupted one.
"""

import contextlib
import dataclasses
import signal
from collections.abc import Collection
from contextlib import nullcontext

from rich.console import Console

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.errors import PtlPrefixError, RankError, StorageError
from ptl_prefix.tracking.disk_sink import DiskSink
from ptl_prefix.tracking.events import EventStream, NoSink, RunFacts
from ptl_prefix.training.console import EscapingConsole
from ptl_prefix.training.meter import Meter
from ptl_prefix.training.mirroring import NoMirror, RunMirror, open_mirror
from ptl_prefix.training.pack import PackMember
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.ranks import ONE_RANK, Ranks, report_lost_ranks
from ptl_prefix.training.run_context import RunContext
from ptl_prefix.training.run_inputs import load_run_inputs
from ptl_prefix.training.run_recorder import RunRecorder
from ptl_prefix.training.start import CheckedInputs, Start, find_start
from ptl_prefix.training.stopping import RunStopped, StopSignals
from ptl_prefix.training.training_run import Outcome, TrainingRun


def train(
    plan: Plan,
    folder: RunFolder,
    *,
    resume: bool = False,
    resume_anyway: Collection[str] = (),
    console: Console | None = None,
    ranks: Ranks = ONE_RANK,
    member: PackMember | None = None,
) -> Outcome:
    """Train, or resume a training. Every rank must call this; only rank 0 writes to the folder.

    Args:
        plan: Plan of the training.
        folder: Run folder.
        resume: Whether to resume from `checkpoints/last.ckpt`; if there is none, the run starts from the beginning.
        resume_anyway: Kinds of inputs that may differ from those of the run when it is resumed: `data`, `weights`,
            `tokenizer`, `code`. With `checkpoint`, a damaged `last.ckpt` is replaced by the newest whole checkpoint.
        console: Console for progress; `None` is standard error.
        ranks: Ranks that train together.
        member: The run's place in a pack; `None` for a run that has the process to itself.

    Raises:
        NonFiniteLossError: If a loss is NaN or infinite; the last good checkpoint is kept.
        ObjectStoreError: If the mirror of the run is newer than the folder, or is another run's.
        ChangedInputsError: If other inputs differ when a run is resumed; the folder is left as it was.
        RunError: If another process holds the folder, its checkpoint is damaged, its files vanish while it runs, or the
            ranks' configs differ.
        StorageError: If the disk does not take a file; the run can be resumed from its last checkpoint.
        RankError: If another rank exited.
    """
    ranks.require_same_config(plan.config)
    console = console if console and ranks.is_rank_zero else EscapingConsole(stderr=True, quiet=not ranks.is_rank_zero)
    with folder.held() if ranks.is_rank_zero else nullcontext():
        mirror = _mirror(plan, folder, console) if ranks.is_rank_zero else NoMirror()
        problem = None
        try:
            outcome = _train(
                plan,
                folder,
                resume=resume,
                anyway=resume_anyway,
                console=console,
                ranks=ranks,
                member=member,
                mirror=mirror,
            )
        finally:
            if (problem := mirror.finish()) is not None:
                console.print(problem, highlight=False, soft_wrap=True, markup=False)
        return outcome if problem is None else dataclasses.replace(outcome, mirror_problem=problem)


def _train(
    plan: Plan,
    folder: RunFolder,
    *,
    resume: bool,
    anyway: Collection[str],
    console: Console,
    ranks: Ranks,
    member: PackMember | None,
    mirror: RunMirror,
) -> Outcome:
    start = ranks.from_rank_zero(lambda: find_start(folder, resume=resume, anyway=anyway))
    signals = StopSignals(console, ranks)
    if member is not None:
        member.bind(signals)
    facts = _facts(plan, folder, start.step, console, signals)
    events = _events(plan, facts, ranks)
    meter = Meter(
        events,
        log_every_n_steps=int(plan.trainer.get("log_every_n_steps") or 50),
        ranks=ranks,
        clock=None if member is None else member.clock,
        loss_key=plan.training.loss_key,
    )
    recorder = RunRecorder(plan, folder, events, meter, writes=ranks.is_rank_zero)
    begin = _Beginning(plan, start, recorder, facts, events, ranks)
    exit_code = 1
    try:
        with signals, report_lost_ranks():
            if start.step is None:
                begin()
            # A resumed run writes nothing before its inputs are known to be the same.
            inputs = load_run_inputs(
                plan,
                ranks,
                console,
                check=begin.check_inputs,
                accepts_other_rows=start.accepts_other_rows,
                notify=facts.notify,
                load_backbone=None if member is None else member.load_backbone,
            )
            begin()
            mirror.start()
            mirror.take()
            context = RunContext(
                folder=folder,
                events=events,
                console=console,
                meter=meter,
                signals=signals,
                ranks=ranks,
                member=member,
                mirror=mirror,
            )
            outcome = TrainingRun(plan, inputs, recorder, context).run(start.step)
        exit_code = 0
        return outcome
    except RunStopped as stop:
        begin()
        exit_code = 128 + signal.Signals[stop.signal_name]
        return Outcome(recorder.finish("stopped"), [], [], signal=stop.signal_name)
    except Exception as error:
        if not recorder.has_begun:
            raise
        if isinstance(error, RankError) and signals.requested:  # the other ranks stopped first
            exit_code = 128 + signal.Signals[signals.requested]
            return Outcome(recorder.finish("stopped"), [], [], signal=signals.requested)
        error = _as_storage_error(error, folder)
        for problem in recorder.record_failure(error):
            console.print(problem, highlight=False, soft_wrap=True, markup=False)
        raise error
    finally:
        with contextlib.suppress(OSError):
            events.close(exit_code)


class _Beginning:
    """The first writes of a run to its folder, once.

    Args:
        plan: Plan of the training.
        start: Where the run starts.
        recorder: Recorder of the run.
        facts: Facts for the sinks.
        events: Event stream, which is opened here.
        ranks: Ranks that train together.
    """

    def __init__(
        self,
        plan: Plan,
        start: Start,
        recorder: RunRecorder,
        facts: RunFacts,
        events: EventStream,
        ranks: Ranks,
    ) -> None:
        self._plan, self._start, self._recorder = plan, start, recorder
        self._facts, self._events, self._ranks = facts, events, ranks
        self._checked: CheckedInputs | None = None
        self._is_open = False

    def check_inputs(self, backbone: Backbone) -> None:
        """Compare the inputs with those that the run has by its log; the loaded backbone is one of them."""
        self._checked = self._ranks.from_rank_zero(lambda: self._start.check(self._plan.task, backbone))

    def __call__(self) -> None:
        """Write the config, and drop the events after the checkpoint; then open the log."""
        if not self._recorder.has_begun:
            self._recorder.begin(self._prepare)
        if not self._is_open:
            self._events.open(self._facts)
            self._is_open = True
            if self._start.step is None:
                self._recorder.log_start()
        self._log_inputs()

    def _prepare(self) -> None:
        if self._ranks.is_rank_zero:
            self._start.prepare(self._plan.config)

    def _log_inputs(self) -> None:
        if self._checked is not None and (self._checked.is_new or self._checked.accepted):
            self._recorder.log_inputs(
                self._checked.fingerprints, step=self._start.step or 0, accepted=self._checked.accepted
            )
            self._checked = None


def _mirror(plan: Plan, folder: RunFolder, console: Console) -> RunMirror:
    """The mirror of the run; what it has to say is always shown."""
    return open_mirror(plan, folder, lambda text: console.print(text, highlight=False, soft_wrap=True, markup=False))


def _as_storage_error(error: Exception, folder: RunFolder) -> Exception:
    """The error as one sentence, if the disk is its cause."""
    if not isinstance(error, OSError) or isinstance(error, PtlPrefixError) or not StorageError.describes(error):
        return error
    storage_error = StorageError(error.filename or folder.path, error)
    storage_error.__cause__ = error
    return storage_error


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
        notify=lambda what: (
            console.print(what, highlight=False, markup=False, soft_wrap=True) if plan.shows_progress else None
        ),
        request_stop=signals.request_stop,
    )
