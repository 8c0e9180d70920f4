"""A preallocated key/value cache that starts with the prefix.

In: a model with filled slots, and the final length of the text. Out: a cache for one call of `generate`. The cache of
transformers grows by one column per step and copies all keys and values each time; here a step writes into
preallocated memory. The prefix is written once, while the prompt is read.

The cache's reported length does not include the prefix, so masks and positions count text only. `prefix_attention`
decides which queries see the prefix.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache

from ptl_prefix.backbones.prefix_states import LayerStates


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values: the prefix, if there is one, then the text, in one preallocated tensor.

    Args:
        num_columns: Preallocated columns of text; the tensor grows if more are needed.
        slot: The layer's prefix; `None` for none.
    """

    def __init__(self, num_columns: int, slot: LayerStates | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slot = slot
        self._prefix_length = 0 if slot is None else slot.length
        self._capacity = self._prefix_length + num_columns
        self._length = 0
        self._buffers: list[Tensor] = []  # keys and values, (rows, kv_heads, capacity, head_dim)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the tensors and write the prefix: one row for all, or each repeated for its beams."""
        self.dtype, self.device = key_states.dtype, key_states.device
        rows, heads = key_states.shape[:2]
        self._buffers = [
            states.new_empty(rows, heads, self._capacity, states.shape[-1]) for states in (key_states, value_states)
        ]
        self._length = 0
        self.is_initialized = True
        if self._slot is not None:
            slot = self._slot.for_rows(rows)
            self._write(slot.key, slot.value)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add columns; return all keys and values, the prefix first."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._write(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def _write(self, keys: Tensor, values: Tensor) -> None:
        end = self._length + keys.shape[2]
        if end > self._buffers[0].shape[2]:
            missing = end - self._buffers[0].shape[2]
            self._buffers = [nn.functional.pad(buffer, (0, 0, 0, missing)) for buffer in self._buffers]
        for buffer, states in zip(self._buffers, (keys, values), strict=True):
            buffer[:, :, self._length : end] = states
        self._length = end
        self._update_views()

    def _update_views(self) -> None:
        self.keys, self.values = (buffer[:, :, : self._length] for buffer in self._buffers)

    def get_seq_length(self) -> int:
        """Number of columns of text, without the prefix."""
        return max(0, self._length - self._prefix_length)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Reorder the rows, for beam search."""
        self._buffers = [buffer.index_select(0, beam_idx.to(buffer.device)) for buffer in self._buffers]
        self._update_views()


def cache_for(model: Any, sites: Mapping[str, Sequence[nn.Module]], *, read: int, written: int) -> Cache | None:
    """A cache that starts with the prefix in the slots.

    Args:
        model: The backbone's model.
        sites: Its attention modules, by site.
        read: Number of source columns that an encoder reads.
        written: Number of columns of the generated text, prompt or decoder start included.

    Returns:
        The cache; `None` if the one of transformers must be used: without a prefix; with sliding-window layers, whose
        cache is shorter than the text and would drop the prefix; and with T5's position bias, which is as wide as the
        cache.
    """
    if not any(_slot(module) for modules in sites.values() for module in modules):
        return None
    if hasattr(model.config, "relative_attention_num_buckets") or has_attention_windows(model):
        return None
    caches = [
        Cache(layers=[PreallocatedLayer(num_columns, _slot(module)) for module in sites[site]])
        for site, num_columns in (("decoder_self", written), ("decoder_cross", read))
        if site in sites
    ]
    return EncoderDecoderCache(*caches) if len(caches) > 1 else caches[0]


def has_attention_windows(model: Any) -> bool:
    """Whether some layers attend to the nearest positions only."""
    return any(DynamicCache(config=model.config).is_sliding)


def _slot(module: nn.Module) -> LayerStates | None:
    slot: LayerStates | None = getattr(module, "prefix_slot", None)
    return slot
