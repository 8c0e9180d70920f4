"""A frozen model that is divided among ranks: each holds a share of every weight, and borrows the rest for a moment.

In: a model on which every rank has the same weights. Out: `Sharding`. Before a layer computes, forward or backward, it
gathers its weights from all ranks, and afterwards it lets them go. So every forward and every backward is one of all
ranks: where one of them runs a forward more than the others, all of them wait for ever.

torch's own `fully_shard` does it, layer by layer. Lightning's strategies for it shard what is trained, too, and expect
the optimizer and checkpoints to hold shards; here nothing that is trained is sharded, and the rest of a run stays what
it is without sharding.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor


class Sharding:
    """The shards of one model; the ranks must have met.

    A model's weights outside of its layers (embeddings, the head, the last norm) are one group, which it gathers when
    it is called itself. Some callers use a part of it instead, such as its encoder: `unsharded_ends` is for them.

    Args:
        model: Its weights may be on the CPU still: each layer is moved, divided and let go before the next one.
        layers: The modules that gather their weights each by itself.
        device: Where the shards go.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], device: torch.device) -> None:
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        # Usually the outermost module keeps what it has gathered until the backward. With a large vocabulary that
        # would be much of what sharding is there to save.
        self._outermost: FSDPModule = fully_shard(model, mesh=mesh, reshard_after_forward=True)
        self._num_inside = 0

    @contextmanager
    def unsharded_ends(self) -> Iterator[None]:
        """Inside, every rank has the weights outside of the layers; all ranks must enter."""
        if not self._num_inside:
            self._outermost.set_reshard_after_forward(False, recurse=False)
            self._outermost.unshard()
        self._num_inside += 1
        try:
            yield
        finally:
            self._num_inside -= 1
            if not self._num_inside:
                self._outermost.set_reshard_after_forward(True, recurse=False)
                self._outermost.reshard()


class RankMemory(NamedTuple):
    """Memory that one rank needs for the frozen parameters of a sharded model: its share, and what it borrows.

    Args:
        in_layers: While a layer computes: all that is outside of the layers, that layer, and the next one, which comes.
        at_ends: When what is outside of the layers comes, before a forward and before a backward: once as it is
            received and once as it is used; and the first layer, which comes next.
    """

    in_layers: int
    at_ends: int


def memory_per_rank(model: nn.Module, layers: Sequence[nn.Module], num_ranks: int) -> RankMemory:
    """What each of so many ranks would need at most, at two moments."""
    of_layers = sorted(_frozen_bytes(layer) for layer in layers)
    total = _frozen_bytes(model)
    share, ends = math.ceil(total / num_ranks), total - sum(of_layers)
    return RankMemory(in_layers=share + ends + sum(of_layers[-2:]), at_ends=share + 2 * ends + of_layers[-1])


def _frozen_bytes(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters() if not weight.requires_grad)


def local_bytes(model: nn.Module) -> int:
    """Memory that a model's frozen parameters take in this process: of those that are sharded, this rank's share."""
    frozen = (parameter for parameter in model.parameters() if not parameter.requires_grad)
    local = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in frozen)
    return sum(tensor.numel() * tensor.element_size() for tensor in local)
