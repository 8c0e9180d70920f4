"""Gradient checkpointing: a layer's activations are recomputed in the backward pass instead of kept.

In: the layers of a model. Out: `Checkpointing`, which has wrapped the forward of each.

The switch of transformers works only if a layer is in training mode, which in some families (BART, OPT) also turns on
dropout. The frozen backbone is in eval mode while a prefix is trained, as in the paper, hence this wrapper.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache


class Checkpointing:
    """Checkpoints the layers of one model: each runs in the forward pass, and again in the backward pass.

    The prefix in a layer's slot must be the same both times: slots keep their states until they are filled again.

    Args:
        layers: The modules whose activations are recomputed; their `forward` is replaced.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self._is_on = True
        for layer in layers:
            layer.forward = partial(self._run, layer.forward)

    def _run(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # Recomputation would write into the cache a second time.
        fills_cache = any(isinstance(value, Cache) for value in (*args, *kwargs.values()))
        if not self._is_on or fills_cache or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, activations of forward passes are kept."""
        was_on, self._is_on = self._is_on, False
        try:
            yield
        finally:
            self._is_on = was_on
