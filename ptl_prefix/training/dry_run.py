"""What a training would be, before it is: parameters, steps and memory, from shapes alone.

In: a `Plan`. Out: `Estimate`. The data are read and encoded, since the number of steps and the longest batch follow
from them; of the backbone only its config and tokenizer are read, and a forward pass on the meta device says which
activations a backward would need.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.backbones.sharding import RankMemory
from ptl_prefix.data.encoded_split import EncodedSplit
from ptl_prefix.evaluation.loss import num_computed_positions
from ptl_prefix.methods.method import Method
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.step_memory import StepMemory, step_memory

_STATE_BYTES = 12
"""Of one trained number: its float32 master and Adam's two moments."""
_GRADIENT_BYTES = 4


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
        num_devices: Devices that train together; bytes are those of each.
        backbone_bytes: Memory of the backbone's weights on each device; where they are sharded, with what it borrows
            while a layer computes.
        optimizer_bytes: Memory of the trained parameters and Adam's moments.
        gradient_bytes: Memory of the gradients.
        kept_bytes: What the longest batch needs beside them at its peak, where activations are kept for the backward.
        recomputed_bytes: The same where they are computed again, by `backbone.gradient_checkpointing`.
        is_recomputed: Which of the two the plan has.
        update_bytes: What is there when the backward is over: what is left of it, and the message of gradients to other
            devices, or what Adam makes to move the parameters, whichever is more.
        notes: What a person should know of the method's start.
        backbone_notes: What a person should know of the backbone.
    """

    trained: int
    stored: int
    backbone: int
    steps: int
    epochs: float
    pairs: int
    longest_tokens: int
    num_devices: int
    backbone_bytes: int
    optimizer_bytes: int
    gradient_bytes: int
    kept_bytes: int
    recomputed_bytes: int
    is_recomputed: bool
    update_bytes: int
    notes: tuple[str, ...]
    backbone_notes: tuple[str, ...]

    @property
    def activation_bytes(self) -> int:
        """What the longest batch needs at its peak, beside all that is always there."""
        return self.recomputed_bytes if self.is_recomputed else self.kept_bytes

    @property
    def memory_bytes(self) -> int:
        """What training needs on each device besides the libraries themselves."""
        return self._with_activations(self.activation_bytes)

    @property
    def other_memory_bytes(self) -> int:
        """The same, if `backbone.gradient_checkpointing` were the other way."""
        return self._with_activations(self.kept_bytes if self.is_recomputed else self.recomputed_bytes)

    def _with_activations(self, activations: int) -> int:
        passing = max(activations, self.update_bytes)
        return self.backbone_bytes + self.optimizer_bytes + self.gradient_bytes + passing


def estimate(plan: Plan) -> Estimate:
    """What `plan` would be. No weight is read."""
    backbone = plan.backbone.load_shape(gradient_checkpointing=True)
    prompter = backbone.prompter(plan.task.prompt)
    encoded = plan.encoded("train", backbone, prompter)
    batches_per_epoch = plan.batches_per_epoch(len(encoded))
    steps = plan.num_steps(batches_per_epoch)
    method = plan.method.attach(backbone)
    gradient_bytes = method.num_trainable * _GRADIENT_BYTES
    held = _held(plan, backbone)
    try:
        batch, num_targets = _longest_batch(prompter, encoded, plan.batches.batch_size)
        recomputed = step_memory(backbone, method, batch, num_targets, micro_batches=plan.accumulation)
        with backbone.without_checkpointing():
            kept = step_memory(backbone, method, batch, num_targets, micro_batches=plan.accumulation)
        return Estimate(
            trained=method.num_trainable,
            stored=method.num_stored,
            backbone=backbone.num_parameters,
            steps=steps,
            epochs=steps * plan.accumulation / batches_per_epoch,
            pairs=len(encoded),
            longest_tokens=int(encoded.lengths.max()),
            num_devices=plan.num_ranks,
            backbone_bytes=held.in_layers,
            optimizer_bytes=method.num_trainable * _STATE_BYTES,
            gradient_bytes=gradient_bytes,
            kept_bytes=_beside(kept, held) - gradient_bytes,
            recomputed_bytes=_beside(recomputed, held) - gradient_bytes,
            is_recomputed=plan.backbone.gradient_checkpointing,
            update_bytes=_update_bytes(plan, method) + max(0, kept.left - gradient_bytes),
            notes=tuple(method.notes),
            backbone_notes=plan.backbone.notes,
        )
    finally:
        method.detach()


def _held(plan: Plan, backbone: Backbone) -> RankMemory:
    """Memory of the weights on each device, whole or divided."""
    if plan.is_sharded and plan.num_ranks > 1:
        return backbone.memory_per_rank(plan.num_ranks)
    return RankMemory(backbone.num_bytes, backbone.num_bytes)


def _beside(step: StepMemory, held: RankMemory) -> int:
    """What a step needs beside `held.in_layers`: most of it in a layer, or when the backward begins."""
    return max(step.most, step.at_turn + held.at_ends - held.in_layers)


def _update_bytes(plan: Plan, method: Method) -> int:
    """What lives for a moment after the backward: a gradient's size of all, or twice that of the largest."""
    sizes = [parameter.numel() * _GRADIENT_BYTES for parameter in method.trainable_parameters().values()]
    # On a GPU AdamW takes all parameters at once, elsewhere one after another, but then with two tensors for each.
    is_whole = plan.num_ranks > 1 or plan.backbone.torch_device.type == "cuda"
    return max(sum(sizes) if is_whole else 0, 2 * max(sizes))


def _longest_batch(prompter: Prompter, encoded: EncodedSplit, batch_size: int) -> tuple[ModelInputs, int]:
    """The shapes of a batch of the longest row, and at how many positions its logits are computed."""
    longest = int(encoded.lengths.argmax())
    num_source = int(encoded.num_source_ids[longest])
    num_target = int(encoded.lengths[longest]) - num_source

    num_targets = num_computed_positions(batch_size * num_target)

    def ids(length: int) -> Tensor:
        return torch.ones(batch_size, length, dtype=torch.long, device="meta")

    if prompter.decoder_start_ids is None:
        text = ids(num_source + num_target)
        return ModelInputs(text, text), num_targets
    source, written = ids(num_source), ids(len(prompter.decoder_start_ids) + num_target)
    return ModelInputs(source, source, decoder_input_ids=written, decoder_attention_mask=written), num_targets
