"""A pack: trainings that take turns in one process, on one frozen backbone that is in memory once.

In: trainings, each a function that calls `train` with its `PackMember`. Out: each has ended in its own way, with its
own run folder; one that fails or is stopped leaves the pack, and the others continue.

Each training has a thread of its own, and one of them runs at a time. It runs until it needs the loss of a batch: then
it hands the batch and its prefix over, and the next one runs. When all of them wait, the pack computes their losses,
several in one pass over the backbone (`joined_passes.py`), and the turns begin again. So everything else of a training
(data order, optimizer, schedule, clipping, validation, checkpoints, events) is what it is alone. What a process has
only one of, its random state and its standard output, is changed with each turn.
"""

import contextlib
import gc
import json
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import torch

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.joined_rows import take_conditioned
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.evaluation.joined_loss import ComputedLoss, LossRequest
from ptl_prefix.evaluation.loss import TargetLoss, loss_part, nats_of_parts
from ptl_prefix.methods.method import Method
from ptl_prefix.training.joined_passes import PendingLoss, compute_pending
from ptl_prefix.training.lightning_warnings import quiet_lightning
from ptl_prefix.training.pack_problems import pack_problems
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.random_state import random_state, restore_random_state
from ptl_prefix.training.stopping import RunStopped, StopSignals

IN_PACK = (
    "trained in a pack: its seconds are its own and its share of the passes, and its peak memory is that of all trials "
    "of the pack together"
)
"""The note in the log of a training that was in a pack, on what its cost means."""


class PackMember:
    """One training of a pack.

    Args:
        pack: The pack.
        body: Runs the training; it must handle its own errors.
        output: Receives what the training prints; `None` leaves it to the process.
    """

    def __init__(self, pack: "Pack", body: "Callable[[PackMember], object]", output: TextIO | None) -> None:
        self._pack, self._body, self.output = pack, body, output
        self.backbone_key: str | None = None
        self._pending: PendingLoss | None = None
        self.has_ended = False
        self._signals: StopSignals | None = None
        self._stop_requested = False
        self._has_turn = threading.Semaphore(0)
        self._random_state: dict[str, Any] = pack.first_random_state
        self._backbone: Backbone | None = None
        self._own_s, self._turn_began = 0.0, 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    # For the training, in its own thread

    def bind(self, signals: StopSignals) -> None:
        """Name what receives requests to stop this training."""
        self._signals = signals
        if self._stop_requested:
            signals.request_stop()

    def load_backbone(self, plan: Plan) -> Backbone:
        """The pack's backbone of a plan; one of its own if the plan cannot share it."""
        caches = plan.data.cache_hidden_states
        if not pack_problems(plan.method, plan.trainer, plan.backbone.base_mode, caches_hidden_states=caches):
            self.backbone_key = json.dumps(plan.config["backbone"], sort_keys=True, default=str)
        self._backbone = self._pack.load_backbone(self.backbone_key, plan)
        return self._backbone

    def target_loss(
        self, backbone: Backbone, method: Method, batch: ModelInputs, *, label_smoothing: float = 0.0
    ) -> TargetLoss:
        """The loss of a batch, as `evaluation.loss.target_loss`; other trainings run until it is computed."""
        part = loss_part(backbone, batch, label_smoothing)
        inputs = method.condition(part.batch)
        rows = None if self.backbone_key is None else take_conditioned(backbone.slots, inputs)
        if rows is None:
            (nats,) = nats_of_parts(backbone, inputs, [part])
            return TargetLoss(nats, part.targets.num_tokens)
        request = LossRequest(part, rows, needs_gradient=torch.is_grad_enabled())
        self._pending = PendingLoss(backbone, request)
        self._hand_over()
        return self._take_result().target_loss(part.targets.num_tokens)

    def pause(self) -> None:
        """Let other trainings run, between two passes of this one that each condition their inputs anew.

        Raises:
            RunStopped: If this training was asked to stop.
        """
        self._hand_over()
        if self._signals is not None and self._signals.requested is not None:
            raise RunStopped(self._signals.requested)

    def clock(self) -> float:
        """Seconds that this training has run, and its share of the passes; not those in which it waited."""
        return self._own_s + time.perf_counter() - self._turn_began

    # For the pack and for other threads

    def request_stop(self) -> None:
        """Ask the training to stop with a checkpoint at the end of its step; any thread may call this."""
        self._stop_requested = True
        if self._signals is not None:
            self._signals.request_stop()

    @property
    def waits_for(self) -> PendingLoss | None:
        """The loss that the training waits for; `None` if it can run."""
        is_computed = self._pending is None or self._pending.result is not None
        return None if is_computed else self._pending

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether the training stops at the end of its step."""
        return self._signals is not None and self._signals.requested is not None

    @property
    def is_running(self) -> bool:
        """Whether it is this training's turn."""
        return self._pack.running is self

    def give_turn(self) -> None:
        """Let the training run until it hands the turn over; only the pack calls this."""
        restore_random_state(self._random_state)
        self._turn_began = time.perf_counter()
        with _output_to(self.output):
            if self._thread.ident is None:
                self._thread.start()
            else:
                self._has_turn.release()
            self._pack.wait_for_turn_end()
        self._own_s += time.perf_counter() - self._turn_began
        self._random_state = random_state()

    def close(self) -> None:
        """Close the output of the training, which has ended."""
        if self.output is not None:
            self.output.close()

    def add_share(self, seconds: float) -> None:
        """Count a share of a pass that was computed for this training."""
        self._own_s += seconds

    def _run(self) -> None:
        try:
            self._body(self)
        except BaseException:
            traceback.print_exc()
        finally:
            self.has_ended = True
            self._end_turn()

    def _hand_over(self) -> None:
        self._end_turn()
        self._has_turn.acquire()

    def _end_turn(self) -> None:
        if self._backbone is not None:
            self._backbone.slots.clear()  # they belong to the thread that filled them
        self._pack.end_turn()

    def _take_result(self) -> ComputedLoss:
        assert self._pending is not None
        result, self._pending = self._pending.result, None
        if isinstance(result, BaseException):
            raise result
        assert result is not None
        return result


class Pack:
    """Trainings that take turns in this process."""

    def __init__(self) -> None:
        self.members: list[PackMember] = []
        self.running: PackMember | None = None
        self._arrivals: queue.SimpleQueue[PackMember | None] = queue.SimpleQueue()
        self._turn_ended = threading.Semaphore(0)
        self._backbones: dict[str, Backbone] = {}
        self._is_stopping = False
        self.first_random_state = random_state()
        """The state in which each training begins, as in a process of its own."""

    def add(self, body: Callable[[PackMember], object], output: TextIO | None = None) -> PackMember:
        """Add a training, which begins at the next round of turns; any thread may call this.

        Args:
            body: Runs the training; it must handle its own errors.
            output: Receives what the training prints.
        """
        member = PackMember(self, body, output)
        self._arrivals.put(member)
        return member

    def close(self) -> None:
        """Let `run` return when all trainings have ended."""
        self._arrivals.put(None)

    def stop(self) -> None:
        """Ask all trainings to stop with a checkpoint, and let `run` return after them."""
        self._is_stopping = True
        for member in list(self.members):
            member.request_stop()
        self.close()

    def run(self) -> None:
        """Run trainings until the pack is closed and all have ended."""
        is_open = True
        with quiet_lightning():
            while is_open or self.members:
                is_open = self._admit(is_open)
                for member in [one for one in self.members if one.waits_for is None]:
                    self._give_turn(member)
                self._remove_ended()
                self._compute()

    def load_backbone(self, key: str | None, plan: Plan) -> Backbone:
        """A backbone that trainings share by its key; a new one without a key."""
        if key is None:
            return plan.backbone.load()
        if key not in self._backbones:
            in_use = {one.backbone_key for one in self.members}
            self._backbones = {known: one for known, one in self._backbones.items() if known in in_use}
            self._backbones[key] = plan.backbone.load()
        return self._backbones[key]

    def end_turn(self) -> None:
        """The running training hands over its turn."""
        self._turn_ended.release()

    def wait_for_turn_end(self) -> None:
        """Wait until the running training hands over its turn."""
        self._turn_ended.acquire()

    def _admit(self, is_open: bool) -> bool:
        """Take the arrivals, and wait for one if there is no training; false once the pack is closed."""
        while is_open:
            try:
                arrival = self._arrivals.get(block=not self.members)
            except queue.Empty:
                break
            if arrival is None:
                return False
            self.members.append(arrival)
            if self._is_stopping:
                arrival.request_stop()
        return is_open

    def _give_turn(self, member: PackMember) -> None:
        self.running = member
        try:
            member.give_turn()
        finally:
            self.running = None

    def _remove_ended(self) -> None:
        ended = [one for one in self.members if one.has_ended]
        self.members = [one for one in self.members if not one.has_ended]
        for member in ended:
            member.close()
        if ended:
            gc.collect()  # a trainer and its callbacks refer to each other

    def _compute(self) -> None:
        """Compute the losses that are waited for, once all trainings wait, or one of them has to stop."""
        waiting = [(one, one.waits_for) for one in self.members if one.waits_for is not None]
        if len(waiting) < len(self.members) and not any(member.is_asked_to_stop for member, _ in waiting):
            return
        for indices, seconds in compute_pending([loss for _, loss in waiting]):
            rows = {index: waiting[index][1].request.num_rows for index in indices}
            for index in indices:
                waiting[index][0].add_share(seconds * rows[index] / sum(rows.values()))


@contextlib.contextmanager
def _output_to(file: TextIO | None) -> Iterator[None]:
    """Send what is printed to a file while a training runs."""
    if file is None:
        yield
        return
    with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        yield
