"""What the ranks of a run tell each other, and nothing else is told.

In: one process's numbers. Out: those of all ranks, the same in each. A rank trains as if it were alone, on its share of
every batch; what it must know of the others are sums (losses, tokens, gradients of what is trained), what the first
rank has decided, and at the end what the others have written. The frozen weights are never sent.

Gradients go as one message a step: what is trained is small, and so need not be sent while the backward still runs.
"""

import datetime
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from torch import Tensor, nn

from ptl_prefix.artifacts.config_tree import leaves
from ptl_prefix.artifacts.fingerprint import fingerprint_text
from ptl_prefix.data.rank_share import ALONE, RankShare
from ptl_prefix.errors import RankError, RunError
from ptl_prefix.training.rank_environment import RankEnvironment

T = TypeVar("T")

_MEETING = datetime.timedelta(minutes=10)
"""How long a rank waits for the others to come."""
_PATIENCE = datetime.timedelta(hours=2)
"""How long a rank waits for another one that lives: the first may encode a large split. A death is heard at once."""


class Ranks:
    """The processes that train together; each of them has one of these, and calls it at the same places.

    Args:
        share: Which of them this is.
        local_rank: Which GPU of its machine is its own.
    """

    def __init__(self, share: RankShare = ALONE, *, local_rank: int = 0) -> None:
        self.share = share
        self.local_rank = local_rank

    @property
    def number(self) -> int:
        """How many there are."""
        return self.share.num_ranks

    @property
    def is_first(self) -> bool:
        """Whether this one speaks and writes for all."""
        return self.share.is_first

    def sum(self, *numbers: float) -> list[float]:
        """Numbers added up over the ranks, in float64."""
        if self.number == 1:
            return list(numbers)
        message = torch.tensor(numbers, dtype=torch.float64)
        with _together():
            dist.all_reduce(message)
        return message.tolist()

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        if self.number == 1:
            return number
        message = torch.tensor(number)
        with _together():
            dist.all_reduce(message, dist.ReduceOp.MAX)
        return int(message)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make each gradient the sum of all ranks'. Where none of them has one, there is none."""
        if self.number == 1:
            return
        parameters = list(parameters)
        parts = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
        message = torch.cat([*parts, parts[0].new_tensor([p.grad is not None for p in parameters])])
        with _together():
            dist.all_reduce(message)
        *sums, counts = torch.split(message, [*(p.numel() for p in parameters), len(parameters)])
        for parameter, gradient, count in zip(parameters, sums, counts.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter) if count else None

    def gradient_bytes(self, parameters: Iterable[nn.Parameter]) -> int:
        """What each rank hands over in `sum_gradients`: every gradient, and a number that says whether there is one."""
        return 0 if self.number == 1 else sum((p.numel() + 1) * p.element_size() for p in parameters)

    @torch.no_grad()
    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Make tensors those of the first rank."""
        for tensor in tensors if self.number > 1 else ():
            with _together():
                dist.broadcast(tensor, src=0)

    def of_first(self, decide: Callable[[], T]) -> T:
        """What the first rank decides; the others do not call it."""
        if self.number == 1:
            return decide()
        message: list[Any] = [decide() if self.is_first else None]
        with _together():
            dist.broadcast_object_list(message, src=0, device=_CPU)
        return message[0]  # type: ignore[no-any-return]

    def all(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks."""
        if self.number == 1:
            return [value]
        values: list[Any] = [None] * self.number
        with _together():
            dist.all_gather_object(values, value)
        return values

    def join(self, parts: dict[int, str]) -> dict[int, str]:
        """What all ranks have written, by place."""
        return {place: text for part in self.all(parts) for place, text in part.items()}

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """The first rank does this alone, and the others when it is done: they find what it has left on disk."""
        if not self.is_first:
            self.all(None)
        yield
        if self.is_first:
            self.all(None)

    def must_agree(self, config: Mapping[str, Any]) -> None:
        """Stop all ranks if one of them would train something else.

        Raises:
            RunError: The configs differ.
        """
        if len(set(self.all(fingerprint_text(json.dumps(config, sort_keys=True))))) == 1:
            return
        first, *others = ({key: json.dumps(value) for key, value in leaves(one)} for one in self.all(config))
        keys = sorted({key for other in others for key, _ in first.items() ^ other.items()})
        raise RunError(
            f"All ranks must train by one config, but theirs differ in {', '.join(keys)}; "
            "start all of them with the same words."
        )


_CPU = torch.device("cpu")
ONE_RANK = Ranks()
"""Where there is one process: nothing is sent."""


@contextmanager
def joined(place: RankEnvironment, device: torch.device) -> Iterator[Ranks]:
    """Meet the other ranks, and part at the end.

    Args:
        place: Which of them this is.
        device: Where the backbone will be.
    """
    if device.type == "cuda":
        torch.cuda.set_device(place.local_rank)
    if place.is_slurms:
        for name, value in _slurms_meeting_point(os.environ).items():
            os.environ.setdefault(name, value)
    rank, number = place.share.rank, place.share.num_ranks
    with _together():
        store, _, _ = next(dist.rendezvous("env://", rank, number, timeout=_MEETING))  # type: ignore[attr-defined]
        store.set(f"here/{rank}", "")
        store.wait([f"here/{other}" for other in range(number)], _MEETING)
        # Sums of losses and all that is no gradient are on the CPU, wherever the backbone is.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, timeout=_PATIENCE, rank=rank, world_size=number)
    try:
        yield Ranks(place.share, local_rank=place.local_rank)
    finally:
        dist.destroy_process_group()


def _slurms_meeting_point(environment: Mapping[str, str]) -> dict[str, str]:
    """The first machine of the step, and a port that two steps are unlikely to have in common."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "127.0.0.1")
    number = 31 * int(environment["SLURM_JOB_ID"]) + int(environment.get("SLURM_STEP_ID", "0"))
    return {
        "MASTER_ADDR": SLURMEnvironment.resolve_root_node_address(nodes),
        "MASTER_PORT": str(15000 + number % 10000),
    }


@contextmanager
def hearing_of_gone_ranks() -> Iterator[None]:
    """What fails inside because another rank is gone says so: sharded layers talk in the middle of a forward."""
    try:
        yield
    except RuntimeError as error:
        # gloo has no class of errors for it, but names its own file.
        if isinstance(error, dist.DistError) or "/gloo/" in str(error):
            raise _gone(error) from error
        raise


@contextmanager
def _together() -> Iterator[None]:
    """What the ranks do together fails in all of them if one is gone."""
    try:
        yield
    except RuntimeError as error:
        raise _gone(error) from error


def _gone(error: RuntimeError) -> RankError:
    fact = str(error).splitlines()[0]
    return RankError(
        f"All ranks must work to the end, but another one is gone, and says above why ({fact}); go on with resume=."
    )
