"""The training rows with what the first changed layer reads of them, computed once for all epochs and runs.

In: an attached method that changes upper layers only, and the run's training batches. Out: the same batches, whose
steps start at that layer: the layers below it compute the same for a text in every step, as the backbone is frozen.

An entry of the cache is found by a hash of all that the states depend on: the backbone's weights and config, its dtype
and the precision around it, the token ids, their positions, the layer, and the libraries that compute.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ptl_prefix.artifacts.atomic import place_errors
from ptl_prefix.artifacts.file_lock import FileLock
from ptl_prefix.artifacts.fingerprint import fingerprint_text, library_versions
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.data.batches import EvalBatches, TrainBatches
from ptl_prefix.data.encoded_split import EncodedSplit
from ptl_prefix.data.encoding import cache_folder
from ptl_prefix.data.hidden_states import HiddenStates, TokenPlaces, make_room, write_hidden_states
from ptl_prefix.errors import DataError
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.run_inputs import RunInputs
from ptl_prefix.training.stage_progress import Advance, tracked

_VERSION = 1
"""Part of every key: raise it when the layout of the file changes."""
_FOLDER = "hidden_states"

Stage = Callable[[str, int], AbstractContextManager[Advance]]


@dataclass(frozen=True)
class CachedStates:
    """Training batches with hidden states from the cache.

    Args:
        batches: The batches.
        layer: Layer at which their steps start.
        num_bytes: Bytes on disk.
        computed_s: Seconds of computing them; `None` if they were there.
    """

    batches: TrainBatches
    layer: int
    num_bytes: int
    computed_s: float | None


def hidden_state_bytes(encoded: EncodedSplit, backbone: Backbone) -> int:
    """The bytes on disk of one layer's input of a split."""
    return TokenPlaces(encoded).num_tokens * backbone.hidden_size * backbone.dtype.itemsize


def cached_states(plan: Plan, inputs: RunInputs, *, notify: Callable[[str], None], stage: Stage) -> CachedStates:
    """The run's training batches with hidden states, which are computed if no run has done so before.

    Args:
        plan: Plan of the run; its method is attached.
        inputs: Inputs of the run.
        notify: Called with the bytes and their place before they are written.
        stage: Shows progress.

    Raises:
        DataError: The limit does not allow so many bytes.
        StorageError: The disk does not take them.
    """
    backbone, encoded = inputs.backbone, inputs.training_rows
    layer, places = plan.method.first_layer(backbone), TokenPlaces(encoded)
    width, dtype = backbone.hidden_size, backbone.dtype
    num_bytes = places.num_tokens * width * dtype.itemsize
    root = cache_folder(plan.data.cache_dir) / _FOLDER
    folder = root / _key(plan, backbone, places, layer)
    with place_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    computed_s = None
    # Ranks and trials that need the same states wait here for the first one.
    with FileLock(folder.with_suffix(".lock"), required=False):
        if (states := HiddenStates.find(folder, places, layer=layer, width=width, dtype=dtype)) is None:
            _require_room(root, num_bytes, limit=plan.data.max_hidden_state_bytes)
            notify(f"keeping what layer {layer} reads of the training rows in {folder}: {num_bytes:,} bytes")
            began = time.monotonic()
            numbered = encoded.taught_by(None).starting_at(places.numbered(layer))
            with _as_in_training(plan, backbone):
                write_hidden_states(
                    folder,
                    _computed(plan, inputs, numbered, layer, stage),
                    num_tokens=places.num_tokens,
                    width=width,
                    dtype=dtype,
                    facts={"backbone": backbone.name, "layer": layer, "task": plan.task.name},
                )
            computed_s = time.monotonic() - began
            states = HiddenStates(folder, places, layer=layer, width=width, dtype=dtype)
    return CachedStates(inputs.train.starting_at(states), layer, num_bytes, computed_s)


def _key(plan: Plan, backbone: Backbone, places: TokenPlaces, layer: int) -> str:
    """The name of an entry."""
    identity, libraries = backbone.identity, library_versions()
    return fingerprint_text(
        f"{_VERSION} layer {layer}",
        f"{identity.weights_fingerprint} {identity.config_fingerprint} {identity.quantization}",
        f"{backbone.dtype} {backbone.device.type} {plan.trainer.get('precision')}",
        f"{libraries['torch']} {libraries['transformers']}",
        f"{plan.method.position_law} {plan.method.position_offset}",
        places.fingerprint,
    )


def _require_room(root: Path, num_bytes: int, *, limit: int) -> None:
    left = 0 if num_bytes > limit else make_room(root, num_bytes, limit=limit)
    if left + num_bytes > limit:
        used = f", beside {left:,} bytes that are in use" if left else ""
        raise DataError(
            f"`data.max_hidden_state_bytes` must allow the {num_bytes:,} bytes of hidden states{used}, but is "
            f"{limit:,}; raise it, or set data.cache_hidden_states=false."
        )


def _computed(
    plan: Plan, inputs: RunInputs, numbered: EncodedSplit, layer: int, stage: Stage
) -> Iterator[tuple[Tensor, Tensor]]:
    """The places of each batch's tokens, and what the layer reads of them."""
    backbone, method = inputs.backbone, plan.method
    batches = EvalBatches(
        numbered,
        batch_size=plan.data.eval_batch_size,
        padding=backbone.padding(inputs.prompter),
        layout=plan.validation_layout(backbone),
    )
    with stage(f"computing the input of layer {layer}, batch", len(batches)) as advance:
        for batch in tracked(batches, advance):
            assert batch.layer_input is not None
            conditioned = method.condition(batch.replace(layer_input=None).to(backbone.device))
            yield batch.layer_input.states, backbone.layer_input(layer, conditioned).states.cpu()


@contextmanager
def _as_in_training(plan: Plan, backbone: Backbone) -> Iterator[None]:
    """Inside, the backbone computes as in a training step, but no dropout is drawn and no gradient recorded."""
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(str(plan.trainer.get("precision")))
    precision = nullcontext() if dtype is None else torch.autocast(backbone.device.type, dtype)
    was_training = plan.method.training
    plan.method.eval()  # its dropout would take random numbers from the training
    try:
        with torch.no_grad(), precision:
            yield
    finally:
        plan.method.train(was_training)
        backbone.slots.clear()
