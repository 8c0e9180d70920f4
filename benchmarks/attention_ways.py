"""Ways to attend to [prefix; text]: what each computes, which kernel runs it, and what it costs.

In: queries, keys and values of a text padded on the right, and the keys and values of one prefix that all rows share.
Out: for each way its output, which must be that of the others, the kernels that a profiler sees, seconds and memory.

- `explicit mask`: SDPA over the joined keys with a mask, as `backbones/prefix_attention.py` does;
- `flex`: flex attention over the joined keys, compiled on a GPU, with the rule in place of a mask;
- `two parts`: attention to the prefix and causal attention to the text, each by the flash kernel without a mask, joined
  by their log-sum-exps. Rows are padded on the right, so no query of a text sees padding.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.profiler import ProfilerActivity, profile

_NUM_KERNELS = 3
_BACKENDS = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")


@dataclass(frozen=True)
class AttentionInputs:
    """One layer's inputs.

    Args:
        query: (batch, heads, text, head_dim).
        key: (batch, kv_heads, text, head_dim).
        value: As `key`.
        prefix_key: (1, kv_heads, prefix, head_dim).
        prefix_value: As `prefix_key`.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    prefix_key: Tensor
    prefix_value: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in that order."""
        return (self.query, self.key, self.value, self.prefix_key, self.prefix_value)

    def detached(self) -> "AttentionInputs":
        """The same numbers without gradients."""
        return AttentionInputs(*(tensor.detach() for tensor in self.tensors))

    def joined(self) -> tuple[Tensor, Tensor]:
        """The keys and values of [prefix; text]."""
        rows = len(self.query)
        prefix = (one.expand(rows, -1, -1, -1) for one in (self.prefix_key, self.prefix_value))
        key, value = (torch.cat(pair, dim=2) for pair in zip(prefix, (self.key, self.value), strict=True))
        return key, value

    @property
    def mask(self) -> Tensor:
        """(1, 1, text, prefix + text): True where a query sees a key."""
        text, prefix = self.query.shape[2], self.prefix_key.shape[2]
        causal = torch.ones(text, text, dtype=torch.bool, device=self.query.device).tril()
        return nn.functional.pad(causal, (prefix, 0), value=True)[None, None]


def random_inputs(
    *, batch: int, heads: int, kv_heads: int, head_dim: int, text: int, prefix: int, device: str, dtype: torch.dtype
) -> AttentionInputs:
    """Inputs of normal numbers, which have gradients."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()

    return AttentionInputs(
        drawn(batch, heads, text, head_dim),
        drawn(batch, kv_heads, text, head_dim),
        drawn(batch, kv_heads, text, head_dim),
        drawn(1, kv_heads, prefix, head_dim),
        drawn(1, kv_heads, prefix, head_dim),
    )


def explicit_mask(inputs: AttentionInputs, mask: Tensor) -> Tensor:
    """SDPA over the joined keys with a mask."""
    key, value = inputs.joined()
    is_grouped = key.shape[1] != inputs.query.shape[1]
    return nn.functional.scaled_dot_product_attention(inputs.query, key, value, attn_mask=mask, enable_gqa=is_grouped)


def flex(inputs: AttentionInputs, block_mask: Any) -> Tensor:
    """Flex attention over the joined keys."""
    key, value = inputs.joined()
    is_grouped = key.shape[1] != inputs.query.shape[1]
    output = _flex_attention(inputs.query.is_cuda)(
        inputs.query, key, value, block_mask=block_mask, enable_gqa=is_grouped
    )
    assert isinstance(output, Tensor)
    return output


def flex_mask(inputs: AttentionInputs) -> Any:
    """The rule of the mask: a query sees the prefix, and the text up to itself."""
    text, prefix = inputs.query.shape[2], inputs.prefix_key.shape[2]

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return key <= query + prefix

    return create_block_mask(sees, None, None, text, prefix + text, device=str(inputs.query.device))


@cache
def _flex_attention(compiled: bool) -> Callable[..., Any]:
    attend: Callable[..., Any] = flex_attention
    return torch.compile(attend) if compiled else attend


def two_parts(inputs: AttentionInputs) -> Tensor:
    """Attention to the prefix and to the text, joined by their log-sum-exps."""
    rows, heads = inputs.query.shape[:2]
    groups = heads // inputs.key.shape[1]
    prefix = [one.expand(rows, -1, -1, -1) for one in (inputs.prefix_key, inputs.prefix_value)]
    repeated = [
        one if groups == 1 else one.repeat_interleave(groups, dim=1) for one in (inputs.key, inputs.value, *prefix)
    ]
    output: Tensor = _TwoParts.apply(inputs.query, *repeated)  # type: ignore[no-untyped-call]
    return output


class _TwoParts(torch.autograd.Function):
    """Two calls of the flash kernel in each direction.

    The kernel's backward pass computes each weight anew from the log-sum-exp, and needs the output only for the sum of
    its products with the gradient. Given those of both parts together, it returns the joined attention's gradients.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor
    ) -> Tensor:
        text, prefix = _flash(query, key, value, is_causal=True), _flash(query, prefix_key, prefix_value)
        lse = torch.logaddexp(text.lse, prefix.lse)
        shares = [torch.exp(part.lse - lse)[..., None] for part in (text, prefix)]
        output = sum(share * part.output for share, part in zip(shares, (text, prefix), strict=True))
        output = output.to(query.dtype)  # type: ignore[union-attr]
        ctx.save_for_backward(query, key, value, prefix_key, prefix_value, output, lse)
        ctx.parts = text.rest, prefix.rest
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        query, key, value, prefix_key, prefix_value, output, lse = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        text_rest, prefix_rest = ctx.parts
        of_text = _flash_gradients(gradient, query, key, value, output, lse, text_rest, is_causal=True)
        of_prefix = _flash_gradients(gradient, query, prefix_key, prefix_value, output, lse, prefix_rest)
        return (of_text[0] + of_prefix[0], *of_text[1:], *of_prefix[1:])


@dataclass(frozen=True)
class _FlashResult:
    """Output, log-sum-exp (batch, heads, text) in float32, and what the backward pass of the kernel takes besides."""

    output: Tensor
    lse: Tensor
    rest: tuple[Any, ...]


def _flash(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool = False) -> _FlashResult:
    if query.is_cuda:
        output, lse, *rest = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal)
        return _FlashResult(output, lse, tuple(rest[:6]))
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, is_causal)
    return _FlashResult(output, lse, ())


def _flash_gradients(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    rest: tuple[Any, ...],
    *,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values."""
    if query.is_cuda:
        starts_q, starts_k, most_q, most_k, seed, offset = rest
        found = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            gradient, query, key, value, output, lse, starts_q, starts_k, most_q, most_k, 0.0, is_causal, seed, offset
        )
    else:
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, query, key, value, output, lse, 0.0, is_causal
        )
    return found[0], found[1], found[2]


def ways(inputs: AttentionInputs) -> dict[str, Callable[[], Tensor]]:
    """The ways; masks are made before, as a model makes them once for all layers."""
    mask, block_mask = inputs.mask, flex_mask(inputs)
    for_flex = inputs if inputs.query.is_cuda else inputs.detached()  # it has no backward pass on a CPU
    return {
        "explicit mask": lambda: explicit_mask(inputs, mask),
        "flex": lambda: flex(for_flex, block_mask),
        "two parts": lambda: two_parts(inputs),
    }


def gradients_of(inputs: AttentionInputs, output: Tensor) -> list[Tensor]:
    """The gradients of all inputs for a fixed gradient of the output."""
    weights = torch.linspace(-1, 1, output.numel(), device=output.device).view_as(output).to(output.dtype)
    return list(torch.autograd.grad(output, inputs.tensors, weights))


def accepted_backends(inputs: AttentionInputs) -> list[str]:
    """The backends of SDPA that take an explicit mask for these inputs, in the order in which they are tried here."""
    accepted = []
    for name in _BACKENDS:
        with warnings.catch_warnings(), sdpa_kernel([getattr(SDPBackend, name)]):
            warnings.simplefilter("ignore")  # each reason of a refusal is a warning
            try:
                explicit_mask(inputs, inputs.mask)
            except RuntimeError:
                continue
        accepted.append(name)
    return accepted


def kernels(step: Callable[[], object], device: str) -> list[str]:
    """The names of the kernels that take most of a step's time; on a CPU, of the operators."""
    is_cuda = torch.device(device).type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU]) as profiled:
        step()
        synchronize(device)
    found = profiled.key_averages()
    found.sort(key=lambda one: -(one.self_device_time_total if is_cuda else one.self_cpu_time_total))
    return [str(one.key)[:100] for one in found[:_NUM_KERNELS]]


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds(step: Callable[[], object], device: str, rounds: int, warmup: int = 2) -> float:
    """The median seconds of a step."""
    times: list[float] = []
    for number in range(warmup + rounds):
        synchronize(device)
        began = time.perf_counter()
        step()
        synchronize(device)
        if number >= warmup:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def peak_bytes(step: Callable[[], object], device: str) -> int | None:
    """The most bytes that a step holds at once, over what was held before it; `None` on a CPU."""
    if torch.device(device).type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def largest_difference(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The largest difference of two numbers at the same place, relative to the largest number of the first."""
    pairs = [(one.detach().float(), other.detach().float()) for one, other in zip(tensors, others, strict=True)]
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in pairs)
