"""Attention over [prefix; text]: K' = [P_K; K], V' = [P_V; V] (Li & Liang, 2021, section 4).

In: one layer's queries, keys and values. Out: attention over the prefix in the layer's slot and the text.

transformers looks up attention functions by name. The one registered here reads the prefix slot of the calling module,
so this file serves every family and every attention site.
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
"""The name under which `prefix_attention` and its mask are registered. It must not contain "sdpa": models that do not
support the library's SDPA would refuse it."""


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
    """Attend to the module's prefix, if there is one, and to the text.

    Args:
        module: The attention module; its `prefix_slot` holds `LayerStates`, or `None`.
        query: (batch, heads, queries, head_dim).
        key: (batch, kv_heads, keys, head_dim), cached text included; with the prefix in front if it comes from a cache
            of `prefix_cache`.
        value: As `key`.
        attention_mask: (batch or 1, 1, queries, keys); True or 0.0 where a query sees a key. Never `None`: see
            `explicit_mask`.
        position_bias: T5's relative position bias, (1, heads, queries, keys).
        softcap: Gemma 2's bound on attention scores; `None` for none.
        kwargs: Other arguments of transformers' SDPA.

    Returns:
        The attention output, (batch, queries, heads, head_dim), and `None` for the attention weights.
    """
    slot: LayerStates | None = module.prefix_slot  # type: ignore[assignment]
    if slot is not None:
        batch, _, queries, _ = query.shape
        text_keys = attention_mask.shape[-1]
        visible = slot.visible(batch, queries, keys=text_keys)  # (batch, 1, queries, prefix)
        if key.shape[2] == text_keys:  # else the keys come from a cache that starts with the prefix
            slot = slot.for_rows(batch)  # one row is shared by all; several rows repeat for their beams
            key = torch.cat([slot.key, key], dim=2)  # (batch, kv_heads, prefix + keys, head_dim)
            value = torch.cat([slot.value, value], dim=2)
        attention_mask = _with_prefix(attention_mask.expand(batch, -1, -1, -1), visible)
        if position_bias is not None:
            # A prefix has no distance to the text, so its relative position bias is zero. transformers counts the
            # columns of a cache, so with one that starts with the prefix there is bias for more than the text.
            position_bias = nn.functional.pad(position_bias[..., :text_keys], (slot.length, 0))
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
    """Attention without a prefix: transformers' SDPA, or an explicit one for capped scores.

    The arguments are those of `prefix_attention`.
    """
    if softcap is not None:
        return _softcapped_attention(module, query, key, value, attention_mask, softcap=softcap, **kwargs), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _with_prefix(attention_mask: Tensor, visible: Tensor) -> Tensor:
    """The attention mask of [prefix; text]."""
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
    """Attention with scores bounded by `softcap * tanh(scores / softcap)`, which SDPA does not support."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)  # (batch, heads, queries, prefix + keys)
    if attention_mask.dtype == torch.bool:
        # Not -inf: a row of padding, which sees no key, would become NaN.
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + attention_mask
    precise = torch.promote_types(query.dtype, torch.float32)
    weights = nn.functional.softmax(scores, dim=-1, dtype=precise).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous()


def explicit_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The mask of transformers' SDPA, never omitted.

    Without a mask, SDPA aligns a causal mask with the first keys: after a prefix, text would be masked silently.
    """
    return sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


AttentionInterface.register(IMPLEMENTATION, prefix_attention)
AttentionMaskInterface.register(IMPLEMENTATION, explicit_mask)


class PrefixSlots:
    """The prefix slots of one backbone: one per attention module, empty until filled.

    The states stay until the next `fill` or `clear`: gradient checkpointing runs the forward pass again during the
    backward pass, on a GPU in another thread. A filled backbone therefore belongs to the thread that filled it, and
    runs one forward pass at a time: another thread gets a `BackboneBusyError`, never another thread's prefix.
    """

    def __init__(self, model: PreTrainedModel, modules: Mapping[str, Sequence[nn.Module]]) -> None:
        self._model = model
        self._modules = modules
        self._holders = 0
        self._restore: list[Callable[[], None]] = []
        self._clear_callbacks: list[Callable[[], None]] = []
        # Threads, not their idents, which are reused after a thread has ended.
        self._owner: threading.Thread | None = None
        self._runner: threading.Thread | None = None
        self._depth = 0
        self._lock = threading.Lock()  # guards owner, runner and depth
        self._forwards = threading.local()

    def acquire(self) -> None:
        """Route the model's attention through `prefix_attention`; several methods can share the slots."""
        self._holders += 1
        if self._holders > 1:
            return
        original = self._model.config._attn_implementation
        for module in self._all_modules():
            module.prefix_slot = None  # type: ignore[assignment]
        self._model.set_attn_implementation(IMPLEMENTATION)
        begin = self._model.register_forward_pre_hook(lambda *_: self._begin_forward())
        end = self._model.register_forward_hook(lambda *_: self._end_forward(), always_call=True)
        self._restore = [begin.remove, end.remove, lambda: self._model.set_attn_implementation(original)]

    def release(self) -> None:
        """Undo one `acquire`; after the last one the model is as it was before the first."""
        assert self._holders > 0, "release without acquire"
        self.clear()
        self._holders -= 1
        if self._holders == 0:
            for undo in self._restore:
                undo()
            for module in self._all_modules():
                del module.prefix_slot

    def fill(self, states: PrefixStates) -> None:
        """Set the prefix of every attention module, for this thread.

        Raises:
            BackboneBusyError: When another thread's states are in the slots, or its forward pass is running.
        """
        with self.exclusive():
            self.claim()
            for site, modules in self._modules.items():
                for module, layer in zip(modules, states.sites[site], strict=True):
                    module.prefix_slot = layer  # type: ignore[assignment]

    def filled(self) -> dict[str, tuple[LayerStates | None, ...]]:
        """What the slots hold, by site and layer."""
        return {
            site: tuple(getattr(module, "prefix_slot", None) for module in modules)
            for site, modules in self._modules.items()
        }

    def claim(self) -> None:
        """Reserve the backbone for this thread until it is cleared.

        Raises:
            BackboneBusyError: When another thread's states are in the slots, or its forward pass is running.
        """
        with self.exclusive():
            self._owner = threading.current_thread()

    def cache(self, *, read: int, written: int) -> Cache | None:
        """A cache for generation that starts with the prefix in the slots; see `cache_for`."""
        return cache_for(self._model, self._modules, read=read, written=written)

    def clear(self) -> None:
        """Empty every slot, and call the `on_clear` callbacks: the backbone computes as without a method."""
        with self.exclusive(of_owner=False):
            self._owner = None
            for module in self._all_modules() if self._holders else ():
                module.prefix_slot = None  # type: ignore[assignment]
            for callback in self._clear_callbacks:
                callback()

    def on_clear(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` at every `clear`: for a method that does not use the slots.

        Returns:
            A function that removes the callback.
        """
        self._clear_callbacks.append(callback)
        return lambda: self._clear_callbacks.remove(callback)

    @contextmanager
    def exclusive(self, *, of_owner: bool = True) -> Iterator[None]:
        """Inside, other threads cannot use the backbone; for several forward passes, as in decoding.

        Args:
            of_owner: Whether the slots must not hold another thread's states.

        Raises:
            BackboneBusyError: When another thread is inside, or, with `of_owner`, its states are in the slots.
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
        # The hook is also called after a forward pass that `_enter` has refused.
        if getattr(self._forwards, "open", 0):
            self._forwards.open -= 1
            self._leave()

    def _enter(self, of_owner: bool) -> None:
        thread = threading.current_thread()
        with self._lock:
            if self._runner not in (None, thread):
                raise BackboneBusyError(
                    "A backbone runs one forward pass at a time, but another thread is using this one; "
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
        with self._lock:
            self._depth -= 1
            if not self._depth:
                self._runner = None

    def _all_modules(self) -> Iterator[nn.Module]:
        for modules in self._modules.values():
            yield from modules
