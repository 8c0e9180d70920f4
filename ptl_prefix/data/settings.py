"""How examples become batches: the settings of the config group `data`."""

from typing import Annotated, Literal

from annotated_types import Ge

from ptl_prefix.settings import settings_from


class DataSettings:
    """How examples become batches.

    Args:
        batch_size: Rows in a training batch, on each device.
        eval_batch_size: Rows in a batch of validation or generation.
        max_target_tokens: Longest target, its end included; `None` means whatever the backbone has room for.
        overlong: `truncate` cuts the source, then the target; `drop` leaves the pair out. Both are counted.
        cache_dir: Where encoded splits are kept; `None` means `ptl_prefix` in the user's cache folder.
    """

    @settings_from("data/batches")
    def __init__(
        self,
        *,
        batch_size: Annotated[int, Ge(1)],
        eval_batch_size: Annotated[int, Ge(1)],
        max_target_tokens: Annotated[int, Ge(2)] | None,
        overlong: Literal["truncate", "drop"],
        cache_dir: str | None,
    ) -> None:
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.max_target_tokens = max_target_tokens
        self.overlong = overlong
        self.cache_dir = cache_dir
