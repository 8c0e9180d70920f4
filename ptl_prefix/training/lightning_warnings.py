"""Silences Lightning's messages that appear at every start and need no action; other warnings still appear.

In: nothing. Out: a block without these messages, however the caller shows warnings.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_EXPECTED = (
    # A call inside Lightning, deprecated by torch.
    r".*isinstance\(treespec, LeafSpec\).*",
    # The backbone is in eval mode on purpose: see `backbone.base_mode`.
    "Found .* in eval mode at the start of training.*",
    # Logged values have been summed over the ranks already.
    "It is recommended to use `self.log.*sync_dist=True.*",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's list of devices, its tips, and its warnings about intended settings."""
    logger = logging.getLogger("pytorch_lightning")
    previous = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(previous)
