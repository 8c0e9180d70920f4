"""Shards the frozen weights over ranks (FSDP).

In: a model that every rank has loaded. Out: `Sharding`. Before a layer computes, forward or backward, its weights are
gathered from all ranks, and afterwards they are freed. Every rank must therefore run the same number of forward and
backward passes: an extra one on a single rank waits for ever.

The sharding is that of torch's `fully_shard`, layer by layer. Lightning's FSDP strategies also shard the trainable
parameters, and expect the optimizer and checkpoints to hold shards; here trainable parameters are never sharded, and
the rest of a run is the same as without sharding.
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
    """The shards of one model. torch.distributed must be initialised.

    The weights outside the layers (embeddings, last norm, LM head) are one group, gathered by the forward pass of the
    whole model. `unsharded_ends` is for callers of a part of the model, such as its encoder.

    Args:
        model: The model; its weights may still be on the CPU: layers are moved and sharded one after another.
        layers: The modules that are gathered one at a time.
        device: Device of the shards.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], device: torch.device) -> None:
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        # By default the outermost module stays gathered until the backward pass. With a large vocabulary that would
        # be much of the memory that sharding saves.
        self._outermost: FSDPModule = fully_shard(model, mesh=mesh, reshard_after_forward=True)
        self._num_entered = 0

    @contextmanager
    def unsharded_ends(self) -> Iterator[None]:
        """Inside, every rank has the weights outside the layers; all ranks must enter."""
        if not self._num_entered:
            self._outermost.set_reshard_after_forward(False, recurse=False)
            self._outermost.unshard()
        self._num_entered += 1
        try:
            yield
        finally:
            self._num_entered -= 1
            if not self._num_entered:
                self._outermost.set_reshard_after_forward(True, recurse=False)
                self._outermost.reshard()


class RankMemory(NamedTuple):
    """Memory of a sharded model's frozen parameters on one rank, in bytes: its shard, and gathered weights.

    Args:
        in_layers: While a layer computes: the weights outside the layers, this layer, and the next one, which is
            prefetched.
        at_ends: While the weights outside the layers are gathered, before a forward or backward pass: these weights
            twice (receive buffer and parameters), and the first layer, which is prefetched.
    """

    in_layers: int
    at_ends: int


def memory_per_rank(model: nn.Module, layers: Sequence[nn.Module], num_ranks: int) -> RankMemory:
    """The largest memory that each of `num_ranks` ranks would need, at two moments."""
    layer_bytes = sorted(_frozen_bytes(layer) for layer in layers)
    total = _frozen_bytes(model)
    shard, ends = math.ceil(total / num_ranks), total - sum(layer_bytes)
    return RankMemory(in_layers=shard + ends + sum(layer_bytes[-2:]), at_ends=shard + 2 * ends + layer_bytes[-1])


def _frozen_bytes(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in module.parameters() if not weight.requires_grad)


def local_bytes(model: nn.Module) -> int:
    """Memory of a model's frozen parameters in this process, in bytes; of sharded ones, this rank's shard."""
    frozen = (parameter for parameter in model.parameters() if not parameter.requires_grad)
    local = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in frozen)
    return sum(tensor.numel() * tensor.element_size() for tensor in local)
