"""Settings of the config group `data`: batch sizes, length limits and the cache folder."""

from typing import Annotated, Literal

from annotated_types import Ge

from ptl_prefix.settings import settings_from


class DataSettings:
    """Settings of encoding and batching.

    Args:
        batch_size: Rows of a training batch on each device.
        eval_batch_size: Rows of a batch in validation and generation.
        max_target_tokens: Longest target in tokens, its end included; `None`: limited by the backbone's positions only.
        overlong: Handling of pairs that are too long: `truncate` cuts the source, then the target; `drop` leaves the
            pair out. Both are counted.
        packing: Whether several examples share a row of a training batch, instead of padding; decoder-only backbones. A
            step has the same pairs, and the same loss up to rounding.
        share_sources: Whether a training step takes whole examples, each with all of its targets, whose prompt is
            computed once; decoder-only backbones. `batch_size` is then the average number of pairs of a batch. In
            validation the prompt is always computed once.
        cache_hidden_states: Whether what the lowest layer with trained parameters reads of each training row is
            computed once and kept on disk, so that no training step computes the layers below it; decoder-only
            backbones.
        max_hidden_state_bytes: Most bytes of hidden states in the cache folder; those that were not used for the
            longest time are removed first.
        cache_dir: Folder of the caches of encoded splits and hidden states; `None`: `ptl_prefix` in the user's cache
            folder.
    """

    @settings_from("data/batches")
    def __init__(
        self,
        *,
        batch_size: Annotated[int, Ge(1)],
        eval_batch_size: Annotated[int, Ge(1)],
        max_target_tokens: Annotated[int, Ge(2)] | None,
        overlong: Literal["truncate", "drop"],
        packing: bool,
        share_sources: bool,
        cache_hidden_states: bool,
        max_hidden_state_bytes: Annotated[int, Ge(0)],
        cache_dir: str | None,
    ) -> None:
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.max_target_tokens = max_target_tokens
        self.overlong = overlong
        self.packing = packing
        self.share_sources = share_sources
        self.cache_hidden_states = cache_hidden_states
        self.max_hidden_state_bytes = max_hidden_state_bytes
        self.cache_dir = cache_dir
