"""Peak memory of a training step, measured without values.

In: a method attached to a backbone on the meta device, and the shapes of a batch. Out: bytes. Forward and backward run
on the meta device, where operations create shapes only. Each created tensor is counted as long as it lives: activations
that autograd keeps, activations that gradient checkpointing recomputes, gradients, and temporary tensors.

Attention is counted as fused kernels compute it. Not counted: workspaces of kernels, the rounding of an allocator, and
the libraries themselves.
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
    """Bytes besides the weights and the trainable parameters; gradients are included.

    Args:
        peak: Peak over the forward and backward pass.
        at_backward_start: Bytes where the backward pass begins.
        after_backward: Bytes after the backward pass.
    """

    peak: int
    at_backward_start: int
    after_backward: int


def step_memory(
    backbone: Backbone, method: Method, batch: ModelInputs, num_targets: int, *, micro_batches: int
) -> StepMemory:
    """Memory of the forward and backward pass of one batch.

    Args:
        backbone: Backbone on the meta device.
        method: Method, attached to the backbone.
        batch: Batch on the meta device.
        num_targets: Number of positions in the batch whose logits are computed.
        micro_batches: Number of batches in one step; from the second on, gradients exist already.
    """
    trained = list(method.trainable_parameters().values())
    place = torch.zeros(num_targets, dtype=torch.long, device="meta")
    # transformers' own masks read values, which the meta device does not have.
    backbone.slots.acquire()
    known = [*backbone.model.parameters(), *backbone.model.buffers(), *method.parameters(), *trained]
    at_backward_start: list[int] = []
    try:
        with _LiveBytes(known) as live, _fused_attention():
            for _ in range(min(micro_batches, 2)):
                logits = backbone.target_logits(method.condition(batch), (place, place))  # (targets, vocabulary)
                logits.register_hook(lambda _: at_backward_start.append(live.now))  # type: ignore[no-untyped-call]
                nats = nn.functional.cross_entropy(logits.float(), place, reduction="sum")
                del logits
                nats.backward()  # type: ignore[no-untyped-call]
                del nats
            return StepMemory(live.peak, max(at_backward_start), live.now)
    finally:
        backbone.slots.release()
        for parameter in trained:
            parameter.grad = None


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations created and that still live.

    Args:
        known: Tensors that existed before and are not counted.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self.now = 0
        self._storages = {tensor.untyped_storage()._cdata for tensor in known}

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
        if place in self._storages:
            return
        self._storages.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, place, size).atexit = False

    def _forget(self, place: int, size: int) -> None:
        self._storages.discard(place)
        self.now -= size


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Count SDPA on the meta device like a fused kernel: torch's own would create the whole matrix of scores.

    The function is replaced by name, as a torch function mode is off while a backward pass recomputes activations.
    """
    real = nn.functional.scaled_dot_product_attention

    def of_shapes(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        # Fused kernels have no gradient for the mask, which a trainable position bias needs.
        if not query.is_meta or attn_mask is None or attn_mask.requires_grad:
            return real(query, key, value, attn_mask=attn_mask, **kwargs)
        output: Tensor = _FusedAttention.apply(query, key, value, attn_mask)  # type: ignore[no-untyped-call]
        return output

    nn.functional.scaled_dot_product_attention = of_shapes  # type: ignore[assignment]
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = real


class _FusedAttention(torch.autograd.Function):
    """The tensors that a fused kernel creates and keeps: output, one number per query, and the mask in its dtype."""

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
