"""The slots of a backbone's attention modules: what `prefix_attention` reads there.

In: the states of a prefix. Out: filled slots, for one thread and its forward passes, until they are filled anew or
cleared.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import Cache, PreTrainedModel

from ptl_prefix.backbones.attention_additions import AttentionAddition
from ptl_prefix.backbones.prefix_attention import IMPLEMENTATION
from ptl_prefix.backbones.prefix_cache import cache_for
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates
from ptl_prefix.errors import BackboneBusyError


class PrefixSlots:
    """The slots of one backbone: for each attention module one of a prefix and one of an addition, empty until filled.

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
        self._empty()
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
                del module.prefix_slot, module.addition_slot

    def fill(self, states: PrefixStates) -> None:
        """Set the prefix of every attention module, for this thread.

        Raises:
            BackboneBusyError: When another thread's states are in the slots, or its forward pass is running.
        """
        with self.exclusive():
            self.claim()
            for site, modules in self._modules.items():
                additions = states.additions.get(site, (None,) * len(modules))
                for module, layer, addition in zip(modules, states.sites[site], additions, strict=True):
                    module.prefix_slot = layer  # type: ignore[assignment]
                    module.addition_slot = addition  # type: ignore[assignment]

    def filled(self) -> dict[str, tuple[LayerStates | None, ...]]:
        """The prefixes that the slots hold, by site and layer."""
        return self._held("prefix_slot")

    def filled_additions(self) -> dict[str, tuple[AttentionAddition | None, ...]]:
        """The additions that the slots hold, by site and layer; empty if there is none."""
        held = self._held("addition_slot")
        return held if any(addition is not None for layers in held.values() for addition in layers) else {}

    def _held(self, slot: str) -> dict[str, tuple[Any, ...]]:
        return {
            site: tuple(getattr(module, slot, None) for module in modules) for site, modules in self._modules.items()
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
            if self._holders:
                self._empty()
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

    def _empty(self) -> None:
        for module in self._all_modules():
            module.prefix_slot = module.addition_slot = None  # type: ignore[assignment]

    def _all_modules(self) -> Iterator[nn.Module]:
        for modules in self._modules.values():
            yield from modules
