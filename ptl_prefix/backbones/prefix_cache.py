"""A cache of keys and values that begins with the prefix, so that decoding pays for it once.

In: filled slots. Out: a cache for one call of `generate`. While a prompt is read, each layer of the cache takes its
slot's keys and values in front of the text's; from then on a step costs what it costs with a text that is longer by
the prefix. Without it every step would copy prefix and text together anew.

To whoever asks for lengths, the prefix is not there: masks and positions count text alone.
Who sees the prefix is decided in `prefix_attention`, as ever.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache

from ptl_prefix.backbones.prefix_states import LayerStates


class PrefixLayer(DynamicLayer):
    """One layer's keys and values: the prefix, then the text.

    Args:
        slot: The prefix.
    """

    def __init__(self, slot: LayerStates) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._slot = slot

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Begin with the prefix: one row for all, or each as often as it has beams."""
        slot = self._slot.for_rows(key_states.shape[0])
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = slot.key, slot.value
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Columns of text."""
        if not self.is_initialized or self.keys is None:
            return 0
        return int(self.keys.shape[-2]) - self._slot.length


def cache_for(model: Any, sites: Mapping[str, Sequence[nn.Module]]) -> Cache | None:
    """A cache that takes what waits in the slots.

    Args:
        model: The backbone's model.
        sites: Its attention modules, by site.

    Returns:
        `None` where the library's own will do: without a prefix; where layers have a sliding window, from whose cache a
        prefix would fall out; and where a bias for each key (T5) is as wide as the cache.
    """
    decoder = sites["decoder_self"]
    cross = sites.get("decoder_cross", ())
    if not any(_slot(module) for module in (*decoder, *cross)):
        return None
    if hasattr(model.config, "relative_attention_num_buckets") or any(DynamicCache(config=model.config).is_sliding):
        return None
    if not cross:
        return _cache(decoder)
    return EncoderDecoderCache(_cache(decoder), _cache(cross))


def _cache(modules: Sequence[nn.Module]) -> Cache:
    slots = [_slot(module) for module in modules]
    return Cache(layers=[DynamicLayer() if slot is None else PrefixLayer(slot) for slot in slots])


def _slot(module: nn.Module) -> LayerStates | None:
    slot: LayerStates | None = getattr(module, "prefix_slot", None)
    return slot
