"""Communication between the ranks of a run.

In: values of one process. Out: values of all ranks, the same in each. A rank trains as if it were alone, on its share
of every batch. The ranks exchange sums (losses, tokens, gradients of the trainable parameters), decisions of rank 0,
and at the end the decoded texts. The frozen weights are never sent.

Gradients are all-reduced once per step, after the backward pass: there are so few trainable parameters that overlapping
communication with the backward pass would gain nothing.
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

_CONNECT = datetime.timedelta(minutes=10)
"""Time that a rank waits for the others to connect."""
_TIMEOUT = datetime.timedelta(hours=2)
"""Time that a rank waits for a running one: rank 0 may encode a large split. An exited one is noticed at once."""


class Ranks:
    """Collective operations over the processes that train together; every rank must call each of them.

    Args:
        share: Rank of this process and number of ranks.
        local_rank: Index of this rank's GPU on its machine.
    """

    def __init__(self, share: RankShare = ALONE, *, local_rank: int = 0) -> None:
        self.share = share
        self.local_rank = local_rank

    @property
    def num_ranks(self) -> int:
        """Number of ranks."""
        return self.share.num_ranks

    @property
    def is_rank_zero(self) -> bool:
        """Whether this rank prints and writes for all."""
        return self.share.is_rank_zero

    def sum(self, *numbers: float) -> list[float]:
        """Sums of numbers over the ranks, in float64."""
        if self.num_ranks == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        with _collective():
            dist.all_reduce(sums)
        return sums.tolist()

    def max(self, number: int) -> int:
        """Maximum of a number over the ranks."""
        if self.num_ranks == 1:
            return number
        maximum = torch.tensor(number)
        with _collective():
            dist.all_reduce(maximum, dist.ReduceOp.MAX)
        return int(maximum)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over the ranks; one that no rank has stays `None`."""
        if self.num_ranks == 1:
            return
        parameters = list(parameters)
        parts = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
        buffer = torch.cat([*parts, parts[0].new_tensor([p.grad is not None for p in parameters])])
        with _collective():
            dist.all_reduce(buffer)
        *sums, counts = torch.split(buffer, [*(p.numel() for p in parameters), len(parameters)])
        for parameter, gradient, count in zip(parameters, sums, counts.tolist(), strict=True):
            parameter.grad = gradient.view_as(parameter) if count else None

    def gradient_bytes(self, parameters: Iterable[nn.Parameter]) -> int:
        """Bytes that each rank sends in `sum_gradients`: every gradient, and for each whether this rank has it."""
        return 0 if self.num_ranks == 1 else sum((p.numel() + 1) * p.element_size() for p in parameters)

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0."""
        for tensor in tensors if self.num_ranks > 1 else ():
            with _collective():
                dist.broadcast(tensor, src=0)

    def from_rank_zero(self, compute: Callable[[], T]) -> T:
        """The value that `compute` returns on rank 0; the other ranks do not call it."""
        if self.num_ranks == 1:
            return compute()
        values: list[Any] = [compute() if self.is_rank_zero else None]
        with _collective():
            dist.broadcast_object_list(values, src=0, device=_CPU)
        return values[0]  # type: ignore[no-any-return]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in the order of ranks."""
        if self.num_ranks == 1:
            return [value]
        values: list[Any] = [None] * self.num_ranks
        with _collective():
            dist.all_gather_object(values, value)
        return values

    def merge(self, texts: dict[int, str]) -> dict[int, str]:
        """The decoded texts of all ranks, by the index of their input."""
        return {index: text for of_rank in self.gather(texts) for index, text in of_rank.items()}

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """Run the block on rank 0 first and then on the others, which find its files on disk."""
        if not self.is_rank_zero:
            self.gather(None)
        yield
        if self.is_rank_zero:
            self.gather(None)

    def require_same_config(self, config: Mapping[str, Any]) -> None:
        """Stop all ranks if their configs differ.

        Raises:
            RunError: If the configs differ, with the keys.
        """
        if len(set(self.gather(fingerprint_text(json.dumps(config, sort_keys=True))))) == 1:
            return
        first, *others = ({key: json.dumps(value) for key, value in leaves(one)} for one in self.gather(config))
        keys = sorted({key for other in others for key, _ in first.items() ^ other.items()})
        raise RunError(
            f"All ranks must have the same config, but theirs differ in {', '.join(keys)}; "
            "start all of them with the same arguments."
        )


_CPU = torch.device("cpu")
ONE_RANK = Ranks()
"""The ranks of a run in one process: nothing is sent."""


@contextmanager
def process_group(environment: RankEnvironment, device: torch.device) -> Iterator[Ranks]:
    """Connect to the other ranks for this block.

    Args:
        environment: Rank of this process.
        device: Device of the backbone.
    """
    if device.type == "cuda":
        torch.cuda.set_device(environment.local_rank)
    if environment.is_slurm:
        for name, value in _slurm_rendezvous(os.environ).items():
            os.environ.setdefault(name, value)
    rank, num_ranks = environment.share.rank, environment.share.num_ranks
    with _collective():
        store, _, _ = next(dist.rendezvous("env://", rank, num_ranks, timeout=_CONNECT))  # type: ignore[attr-defined]
        store.set(f"here/{rank}", "")
        store.wait([f"here/{other}" for other in range(num_ranks)], _CONNECT)
        # Losses and other numbers than gradients are on the CPU, wherever the backbone is.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, timeout=_TIMEOUT, rank=rank, world_size=num_ranks)
    try:
        yield Ranks(environment.share, local_rank=environment.local_rank)
    finally:
        dist.destroy_process_group()


def _slurm_rendezvous(environment: Mapping[str, str]) -> dict[str, str]:
    """The address of the step's first machine, and a port that two steps are unlikely to share."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "127.0.0.1")
    number = 31 * int(environment["SLURM_JOB_ID"]) + int(environment.get("SLURM_STEP_ID", "0"))
    return {
        "MASTER_ADDR": SLURMEnvironment.resolve_root_node_address(nodes),
        "MASTER_PORT": str(15000 + number % 10000),
    }


@contextmanager
def report_lost_ranks() -> Iterator[None]:
    """Raise a `RankError` where the block fails because another rank exited: sharded layers communicate anywhere."""
    try:
        yield
    except RuntimeError as error:
        # gloo has no error class for this, but its messages name its source files.
        if isinstance(error, dist.DistError) or "/gloo/" in str(error):
            raise _lost_rank(error) from error
        raise


@contextmanager
def _collective() -> Iterator[None]:
    """Raise a `RankError` where a collective operation fails because another rank exited."""
    try:
        yield
    except RuntimeError as error:
        raise _lost_rank(error) from error


def _lost_rank(error: RuntimeError) -> RankError:
    fact = str(error).splitlines()[0]
    return RankError(
        f"Another rank exited; its traceback is above ({fact}). Resume with: ptl-prefix train resume=<run folder>"
    )
