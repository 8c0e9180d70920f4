"""A loss of logits that are never all in memory: those of a chunk of positions at a time.

In: hidden states before the LM head, and a function from the states of some positions to their nats. Out: the sum of
the nats, with its gradient to the hidden states. A frozen head's gradient is needed nowhere else, so each chunk's is
computed at once, while its logits are there: the backward pass has nothing to compute again, and memory grows with the
width of the residual stream and not with the vocabulary. (Hsu et al., 2024, arXiv 2410.10989, section 3.2, have the
gradient of the head besides.)
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

NatsOf = Callable[[Float[Tensor, "chunk width"], slice], Float[Tensor, ""]]
"""The summed nats of some positions: their hidden states, and which positions they are."""


def nats_in_chunks(hidden: Float[Tensor, "targets width"], chunk: int, nats_of: NatsOf) -> Float[Tensor, ""]:
    """The sum over all positions of their nats, float32.

    Args:
        hidden: Hidden states at the positions.
        chunk: Number of positions whose logits are in memory together.
        nats_of: Nats of some positions. It must depend on no trainable parameter but through the hidden states.
    """
    nats: Tensor = _NatsInChunks.apply(hidden, chunk, nats_of)  # type: ignore[no-untyped-call]
    return nats


class _NatsInChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, chunk: int, nats_of: NatsOf) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if needs_gradient else None
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden), chunk):
            places = slice(start, min(start + chunk, len(hidden)))
            with torch.set_grad_enabled(needs_gradient):
                part = hidden[places].detach().requires_grad_(needs_gradient)
                nats = nats_of(part, places)
            if gradient is not None:
                (gradient[places],) = torch.autograd.grad(nats, part)
            total += nats.detach()
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].to(gradient), None, None
