"""A cache of keys and values with room for all that will be written, which may begin with the prefix.

In: a model, what waits in its slots, and how long a text will get. Out: a cache for one call of `generate`. The
library's own grows by one column a step, and copies everything for it; here a step writes its column into its place. A
prefix is put in front of the text once, while the prompt is read.

To whoever asks for lengths, the prefix is not there: masks and positions count text alone. Who sees the prefix is
decided in `prefix_attention`, as ever.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache

from ptl_prefix.backbones.prefix_states import LayerStates


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values: the prefix, if there is one, then the text, in a place made for both.

    Args:
        num_columns: Columns of text that there is room for; more are made when they are needed.
        slot: The prefix.
    """

    def __init__(self, num_columns: int, slot: LayerStates | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slot = slot
        self._prefix_length = 0 if slot is None else slot.length
        self._room = self._prefix_length + num_columns
        self._length = 0
        self._places: list[Tensor] = []  # keys and values, (rows, kv_heads, room, head_dim)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the place, and begin with the prefix: one row for all, or each as often as it has beams."""
        self.dtype, self.device = key_states.dtype, key_states.device
        rows, heads = key_states.shape[:2]
        self._places = [
            states.new_empty(rows, heads, self._room, states.shape[-1]) for states in (key_states, value_states)
        ]
        self._length = 0
        self.is_initialized = True
        if self._slot is not None:
            slot = self._slot.for_rows(rows)
            self._write(slot.key, slot.value)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add columns; return all there are, the prefix in front."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._write(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def _write(self, keys: Tensor, values: Tensor) -> None:
        end = self._length + keys.shape[2]
        if end > self._places[0].shape[2]:
            missing = end - self._places[0].shape[2]
            self._places = [nn.functional.pad(place, (0, 0, 0, missing)) for place in self._places]
        for place, states in zip(self._places, (keys, values), strict=True):
            place[:, :, self._length : end] = states
        self._length = end
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (place[:, :, : self._length] for place in self._places)

    def get_seq_length(self) -> int:
        """Columns of text."""
        return max(0, self._length - self._prefix_length)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let each row go on from another one, as beams do."""
        self._places = [place.index_select(0, beam_idx.to(place.device)) for place in self._places]
        self._show()


def cache_for(model: Any, sites: Mapping[str, Sequence[nn.Module]], *, read: int, written: int) -> Cache | None:
    """A cache that takes what waits in the slots.

    Args:
        model: The backbone's model.
        sites: Its attention modules, by site.
        read: Columns that an encoder reads.
        written: Columns of the text that is written, its start or prompt included.

    Returns:
        `None` where the library's own will do: without a prefix; where layers have a sliding window, whose cache is
        shorter than the text, and from which a prefix would fall out; and where a bias for each key (T5) is as wide as
        the cache.
    """
    if not any(_slot(module) for modules in sites.values() for module in modules):
        return None
    if hasattr(model.config, "relative_attention_num_buckets") or any(DynamicCache(config=model.config).is_sliding):
        return None
    caches = [
        Cache(layers=[PreallocatedLayer(num_columns, _slot(module)) for module in sites[site]])
        for site, num_columns in (("decoder_self", written), ("decoder_cross", read))
        if site in sites
    ]
    return EncoderDecoderCache(*caches) if len(caches) > 1 else caches[0]


def _slot(module: nn.Module) -> LayerStates | None:
    slot: LayerStates | None = getattr(module, "prefix_slot", None)
    return slot
