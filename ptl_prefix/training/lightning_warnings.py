"""What Lightning says of itself at every start is no news; what goes wrong still comes through.

In: nothing. Out: a block in which its notices are not heard, whoever called training and however they show warnings.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_NO_NEWS = (
    # Lightning's own call, deprecated by torch.
    r".*isinstance\(treespec, LeafSpec\).*",
    # The backbone is in eval mode on purpose: see `backbone.base_mode`.
    "Found .* in eval mode at the start of training.*",
    # What is logged has been summed over the ranks.
    "It is recommended to use `self.log.*sync_dist=True.*",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Leave out which devices there are, tips, and warnings of what is meant to be so."""
    logger = logging.getLogger("pytorch_lightning")
    usual = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _NO_NEWS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(usual)
