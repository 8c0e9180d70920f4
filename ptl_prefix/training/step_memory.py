"""The most memory that a step of training holds at once, found by making one without numbers.

In: a method on a backbone's sketch, and the shapes of a batch. Out: bytes. Forward and backward run on the meta device,
where operations make shapes and nothing else, and what they make is counted for as long as it lives: what autograd
keeps, what gradient checkpointing computes again, gradients, and what lives for a moment.

Attention is counted as fused kernels have it. Not counted: what kernels use inside, what an allocator rounds up, the
libraries themselves.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.methods.method import Method


class StepMemory(NamedTuple):
    """Bytes beside the weights and the trained numbers, gradients among them.

    Args:
        most: What forward and backward hold at once.
        at_turn: What is there when the backward begins.
        left: What is still there when they are over.
    """

    most: int
    at_turn: int
    left: int


def step_memory(
    backbone: Backbone, method: Method, batch: ModelInputs, num_targets: int, *, micro_batches: int
) -> StepMemory:
    """What forward and backward of one batch hold.

    Args:
        backbone: A sketch.
        method: Attached to it.
        batch: Shapes.
        num_targets: Positions of the whole batch at which logits are computed.
        micro_batches: Batches in one step; from the second on, there are gradients already.
    """
    trained = list(method.trainable_parameters().values())
    place = torch.zeros(num_targets, dtype=torch.long, device="meta")
    # The library's own masks look at numbers, which the meta device has not.
    backbone.slots.acquire()
    known = [*backbone.model.parameters(), *backbone.model.buffers(), *method.parameters(), *trained]
    turns: list[int] = []
    try:
        with _Live(known) as live, _fused_attention():
            for _ in range(min(micro_batches, 2)):
                logits = backbone.target_logits(method.condition(batch), (place, place))  # (targets, vocabulary)
                logits.register_hook(lambda _: turns.append(live.now))  # type: ignore[no-untyped-call]
                nats = nn.functional.cross_entropy(logits.float(), place, reduction="sum")
                del logits
                nats.backward()  # type: ignore[no-untyped-call]
                del nats
            return StepMemory(live.most, max(turns), live.now)
    finally:
        backbone.slots.release()
        for parameter in trained:
            parameter.grad = None


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that operations have made and that are still there.

    Args:
        known: What was there before, and is not counted.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self.now = 0
        self._places = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._places:
            return
        self._places.add(place)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, place, size).atexit = False

    def _forget(self, place: int, size: int) -> None:
        self._places.discard(place)
        self.now -= size


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Inside, SDPA of shapes is a fused kernel; torch would write out the matrix of scores.

    Replaced by name, as a function mode is off in what a backward computes again.
    """
    real = nn.functional.scaled_dot_product_attention

    def of_shapes(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        # No fused kernel has a gradient for its mask, which a trained position bias needs.
        if not query.is_meta or attn_mask is None or attn_mask.requires_grad:
            return real(query, key, value, attn_mask=attn_mask, **kwargs)
        output: Tensor = _Fused.apply(query, key, value, attn_mask)  # type: ignore[no-untyped-call]
        return output

    nn.functional.scaled_dot_product_attention = of_shapes  # type: ignore[assignment]
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = real


class _Fused(torch.autograd.Function):
    """What a fused kernel makes and keeps: the output, a number for each query, and the mask in its own dtype."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        sums = torch.empty_like(query[..., 0], dtype=torch.float32)
        bias = torch.empty_like(mask, dtype=query.dtype) if mask.dtype == torch.bool else mask
        ctx.save_for_backward(query, key, value, output, sums, bias)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None
