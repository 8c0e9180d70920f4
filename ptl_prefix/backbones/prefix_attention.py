"""Where a prefix meets attention.

transformers looks attention up by name. We register one function that reads the prefix slot of the calling module, so
every family and every attention site is served by this file alone: K' = [P_K; K], V' = [P_V; V] (Li & Liang 2021,
section 4).

In: one layer's queries, keys and values. Out: attention over [prefix; text].
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ptl_prefix.backbones.prefix_cache import cache_for
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates
from ptl_prefix.errors import BackboneBusyError

IMPLEMENTATION = "prefix_attention"
"""The name under which transformers finds our attention and its mask. With "sdpa" in it, models that cannot use the
library's own would refuse ours."""


def prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend to the module's prefix, if it has one, before the text.

    Args:
        module: The attention module; its `prefix_slot` holds `LayerStates`, or `None`.
        query: (batch, heads, queries, head_dim).
        key: (batch, kv_heads, keys, head_dim), cached text included; behind the prefix, from a `prefix_cache`.
        value: As `key`.
        attention_mask: (batch or 1, 1, queries, keys); True or 0.0 where a query sees a key. Never `None`: see
            `explicit_mask`.
        position_bias: T5's relative bias, (1, heads, queries, keys).
        softcap: Gemma 2's bound of the scores.
        kwargs: What the library's own SDPA takes.

    Returns:
        (batch, queries, heads, head_dim), and no attention weights.
    """
    slot: LayerStates | None = module.prefix_slot  # type: ignore[assignment]
    if slot is not None:
        batch, _, queries, _ = query.shape
        text_keys = attention_mask.shape[-1]
        visible = slot.visible(batch, queries, keys=text_keys)  # (batch, 1, queries, prefix)
        if key.shape[2] == text_keys:  # else a cache that began with the prefix has put it there
            slot = slot.for_rows(batch)  # one row serves all; several repeat for their beams
            key = torch.cat([slot.key, key], dim=2)  # (batch, kv_heads, prefix + keys, head_dim)
            value = torch.cat([slot.value, value], dim=2)
        attention_mask = _with_prefix(attention_mask.expand(batch, -1, -1, -1), visible)
        if position_bias is not None:
            # A prefix has no place in the text, so a relative position bias is zero for it.
            position_bias = nn.functional.pad(position_bias, (slot.length, 0))
    return plain_attention(
        module, query, key, value, attention_mask, position_bias=position_bias, softcap=softcap, **kwargs
    )


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The library's SDPA; written out where scores are capped. Arguments are those of `prefix_attention`."""
    if softcap is not None:
        return _softcapped_attention(module, query, key, value, attention_mask, softcap=softcap, **kwargs), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _with_prefix(attention_mask: Tensor, visible: Tensor) -> Tensor:
    """The mask of [prefix; text]."""
    if attention_mask.dtype != torch.bool:
        hidden = torch.finfo(attention_mask.dtype).min
        visible = torch.zeros_like(visible, dtype=attention_mask.dtype).masked_fill(~visible, hidden)
    return torch.cat([visible, attention_mask], dim=-1)


def _softcapped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    softcap: float,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> Tensor:
    """Attention whose scores are bounded by `softcap * tanh(scores / softcap)`, which SDPA cannot do."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)  # (batch, heads, queries, prefix + keys)
    if attention_mask.dtype == torch.bool:
        # Not -inf: a row of padding, which sees nothing, must not become NaN.
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous()


def explicit_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The library's mask, never left out.

    SDPA without a mask and with more keys than queries cuts the keys to the queries' length: a prefix would silently
    drop text.
    """
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


AttentionInterface.register(IMPLEMENTATION, prefix_attention)
AttentionMaskInterface.register(IMPLEMENTATION, explicit_mask)


class PrefixSlots:
    """The slots of one backbone: one for each attention module, empty until filled.

    A fill stays until the next fill or `clear`: gradient checkpointing runs the forward again during backward, on a
    GPU in another thread. So a filled backbone belongs to the thread that filled it, and runs one forward at a time:
    another thread gets `BackboneBusyError`, never somebody else's prefix.
    """

    def __init__(self, model: PreTrainedModel, modules: Mapping[str, Sequence[nn.Module]]) -> None:
        self._model = model
        self._modules = modules
        self._holders = 0
        self._restore: list[Callable[[], None]] = []
        self._when_cleared: list[Callable[[], None]] = []
        # Threads themselves, not their idents, which a new thread inherits from one that is gone.
        self._owner: threading.Thread | None = None
        self._runner: threading.Thread | None = None
        self._depth = 0
        self._door = threading.Lock()  # held for moments, by whoever comes or goes
        self._forwards = threading.local()

    def acquire(self) -> None:
        """Route the model's attention through `prefix_attention`. Several holders may share the slots."""
        self._holders += 1
        if self._holders > 1:
            return
        usual = self._model.config._attn_implementation
        for module in self._all_modules():
            module.prefix_slot = None  # type: ignore[assignment]
        self._model.set_attn_implementation(IMPLEMENTATION)
        begin = self._model.register_forward_pre_hook(lambda *_: self._begin_forward())
        end = self._model.register_forward_hook(lambda *_: self._end_forward(), always_call=True)
        self._restore = [begin.remove, end.remove, lambda: self._model.set_attn_implementation(usual)]

    def release(self) -> None:
        """Give the slots back; after the last holder the model is as it was before the first."""
        assert self._holders > 0, "release without take"
        self.clear()
        self._holders -= 1
        if self._holders == 0:
            for undo in self._restore:
                undo()
            for module in self._all_modules():
                del module.prefix_slot

    def fill(self, states: PrefixStates) -> None:
        """Put `states` before every attention module, for this thread.

        Raises:
            BackboneBusyError: When another thread's states are still there, or its forward runs.
        """
        with self.exclusive():
            self.claim()
            for site, modules in self._modules.items():
                for module, layer in zip(modules, states.sites[site], strict=True):
                    module.prefix_slot = layer  # type: ignore[assignment]

    def claim(self) -> None:
        """Keep the backbone for this thread, until it is cleared.

        Raises:
            BackboneBusyError: When another thread's states are still there, or its forward runs.
        """
        with self.exclusive():
            self._owner = threading.current_thread()

    def cache(self, *, read: int, written: int) -> Cache | None:
        """A cache for a text to write, that takes what is in the slots; see `cache_for`."""
        return cache_for(self._model, self._modules, read=read, written=written)

    def clear(self) -> None:
        """Empty every slot: the backbone computes as if there were no prefix, and nothing else of a method's."""
        with self.exclusive(of_owner=False):
            self._owner = None
            for module in self._all_modules() if self._holders else ():
                module.prefix_slot = None  # type: ignore[assignment]
            for rest in self._when_cleared:
                rest()

    def on_clear(self, rest: Callable[[], None]) -> Callable[[], None]:
        """Call `rest` at every `clear`: for a method that works elsewhere than in the slots.

        Returns:
            What ends that.
        """
        self._when_cleared.append(rest)
        return lambda: self._when_cleared.remove(rest)

    @contextmanager
    def exclusive(self, *, of_owner: bool = True) -> Iterator[None]:
        """Keep other threads out, over several forwards, as decoding needs.

        Raises:
            BackboneBusyError: When another thread is inside, or (`of_owner`) its states wait in the slots.
        """
        self._enter(of_owner)
        try:
            yield
        finally:
            self._leave()

    def _begin_forward(self) -> None:
        self._enter(of_owner=True)
        self._forwards.open = getattr(self._forwards, "open", 0) + 1

    def _end_forward(self) -> None:
        # Also called after a forward that was refused at the door, which has nothing to give back.
        if getattr(self._forwards, "open", 0):
            self._forwards.open -= 1
            self._leave()

    def _enter(self, of_owner: bool) -> None:
        thread = threading.current_thread()
        with self._door:
            if self._runner not in (None, thread):
                raise BackboneBusyError(
                    "A backbone runs one forward at a time, but another thread is using this one; "
                    "wait for it, or load a second backbone."
                )
            if of_owner and self._owner not in (None, thread):
                raise BackboneBusyError(
                    "A backbone's slots belong to the thread that filled them, but they hold another thread's prefix; "
                    "clear them there first (`backbone.slots.clear()`), or load a second backbone."
                )
            self._runner = thread
            self._depth += 1

    def _leave(self) -> None:
        with self._door:
            self._depth -= 1
            if not self._depth:
                self._runner = None

    def _all_modules(self) -> Iterator[nn.Module]:
        for modules in self._modules.values():
            yield from modules
