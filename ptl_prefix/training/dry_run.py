"""What a training would be, before it is: parameters, steps and memory, from shapes alone.

In: a `Plan`. Out: `Estimate`. The data are read and encoded, since the number of steps and the longest batch follow
from them; of the backbone only its config and tokenizer are read, and a forward pass on the meta device says which
activations a backward would need.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.encoded_split import EncodedSplit
from ptl_prefix.methods.method import Method
from ptl_prefix.training.plan import Plan

_BYTES_PER_TRAINED = 16
"""float32 master, gradient and Adam's two moments."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A training, before it runs.

    Args:
        trained: Numbers that the optimizer changes.
        stored: Numbers that the bundle holds.
        backbone: Numbers in the frozen backbone.
        steps: Optimizer steps.
        epochs: Passes over the training pairs.
        pairs: (source, target) pairs to train on.
        longest_tokens: Tokens of the longest training row.
        backbone_bytes: Memory of the backbone's weights on each device; where they are sharded, the most at any moment.
        optimizer_bytes: Memory of the trained parameters, their gradients and Adam's moments.
        activation_bytes: What the backward of the longest batch needs kept.
        notes: What a person should know of the method's start.
    """

    trained: int
    stored: int
    backbone: int
    steps: int
    epochs: float
    pairs: int
    longest_tokens: int
    backbone_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    notes: tuple[str, ...]

    @property
    def memory_bytes(self) -> int:
        """The sum: what training needs besides the libraries themselves."""
        return self.backbone_bytes + self.optimizer_bytes + self.activation_bytes


def estimate(plan: Plan) -> Estimate:
    """What `plan` would be. No weight is read."""
    backbone = plan.backbone.sketch()
    prompter = backbone.prompter(plan.task.prompt)
    encoded = plan.encoded("train", backbone, prompter)
    batches_per_epoch = plan.batches_per_epoch(len(encoded))
    steps = plan.num_steps(batches_per_epoch)
    method = plan.method.attach(backbone)
    # The library's own masks look at numbers, which the meta device has not.
    backbone.slots.take()
    try:
        return Estimate(
            trained=method.num_trained,
            stored=method.num_stored,
            backbone=backbone.num_parameters,
            steps=steps,
            epochs=steps * plan.accumulation / batches_per_epoch,
            pairs=len(encoded),
            longest_tokens=int(encoded.lengths.max()),
            backbone_bytes=backbone.num_bytes_sharded(plan.num_ranks) if plan.is_sharded else backbone.num_bytes,
            optimizer_bytes=method.num_trained * _BYTES_PER_TRAINED,
            activation_bytes=_activation_bytes(
                backbone, method, *_longest_batch(prompter, encoded, plan.batches.batch_size)
            ),
            notes=tuple(method.notes),
        )
    finally:
        backbone.slots.release()
        method.detach()


def _activation_bytes(backbone: Backbone, method: Method, batch: ModelInputs, num_targets: int) -> int:
    """Bytes that autograd keeps for the backward of a batch, and of the logits of so many targets a row."""
    weights = {parameter.untyped_storage()._cdata for parameter in backbone.model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    # A method without a prefix has not taken the slots; the library's own masks would look at numbers, which are none.
    backbone.slots.take()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # Where the targets are does not matter to their bytes, and a mask of nothing but shapes could not say.
        logits = backbone.target_logits(method.condition(batch), (slice(None), slice(0, num_targets)))
        labels = torch.ones(logits.shape[:2], dtype=torch.long, device=logits.device)
        torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
    backbone.slots.release()
    # Held until here, so that no storage is freed and its place given to another.
    return sum(storage.nbytes() for place, storage in kept.items() if place not in weights)


def _longest_batch(prompter: Prompter, encoded: EncodedSplit, batch_size: int) -> tuple[ModelInputs, int]:
    """The shapes of a batch of the longest row, and how many targets that has."""
    longest = int(encoded.lengths.argmax())
    num_source = int(encoded.num_source_ids[longest])
    num_target = int(encoded.lengths[longest]) - num_source

    def ids(length: int) -> Tensor:
        return torch.ones(batch_size, length, dtype=torch.long, device="meta")

    if prompter.decoder_start_ids is None:
        text = ids(num_source + num_target)
        return ModelInputs(text, text), num_target
    source, written = ids(num_source), ids(len(prompter.decoder_start_ids) + num_target)
    return ModelInputs(source, source, decoder_input_ids=written, decoder_attention_mask=written), num_target
