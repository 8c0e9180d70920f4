"""Estimate of a training from shapes alone: parameters, steps and memory.

In: a `Plan`. Out: an `Estimate`. The data are read and encoded, as they decide the number of steps and the longest
batch. Of the backbone only config and tokenizer are read; a forward and a backward pass on the meta device show which
tensors live at the same time.
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
from ptl_prefix.training.distillation_rate import rate_notes
from ptl_prefix.training.hidden_state_cache import hidden_state_bytes
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.plan_notes import plan_notes
from ptl_prefix.training.step_memory import StepMemory, step_memory

_STATE_BYTES = 12
"""Bytes of one trainable parameter: its float32 copy and Adam's two moments."""
_GRADIENT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimate of a training.

    Args:
        num_trainable: Number of trainable parameters.
        num_stored: Number of parameters that the bundle holds.
        num_frozen: Number of frozen parameters of the backbone.
        steps: Optimizer steps.
        epochs: Passes over the training pairs.
        pairs: Number of (source, target) pairs to train on.
        longest_tokens: Tokens of the longest training row.
        num_devices: Number of devices that train together; bytes are those of each device.
        backbone_bytes: Memory of the backbone's weights on each device; with sharding, including the layers that are
            gathered while one computes.
        optimizer_bytes: Memory of the trainable parameters and Adam's moments.
        gradient_bytes: Memory of the gradients.
        plain_activation_bytes: Peak memory of the longest batch besides these, without gradient checkpointing.
        checkpointed_activation_bytes: The same with gradient checkpointing.
        uses_checkpointing: Whether the plan has `backbone.gradient_checkpointing`.
        update_bytes: Memory after the backward pass: the remains of it, and the all-reduce buffer or Adam's temporary
            tensors, whichever is more.
        hidden_state_bytes: Bytes on disk of `data.cache_hidden_states`; 0 without it.
        selection: What is decoded during training to choose the best checkpoint; empty if `val/loss` chooses it.
        plan_notes: Sentences about settings that are valid, but probably not meant.
        notes: Sentences about the method's start.
        backbone_notes: Sentences about the backbone.
    """

    num_trainable: int
    num_stored: int
    num_frozen: int
    steps: int
    epochs: float
    pairs: int
    longest_tokens: int
    num_devices: int
    backbone_bytes: int
    optimizer_bytes: int
    gradient_bytes: int
    plain_activation_bytes: int
    checkpointed_activation_bytes: int
    uses_checkpointing: bool
    update_bytes: int
    hidden_state_bytes: int
    selection: str
    plan_notes: tuple[str, ...]
    notes: tuple[str, ...]
    backbone_notes: tuple[str, ...]

    @property
    def activation_bytes(self) -> int:
        """Peak memory of the longest batch besides weights, optimizer and gradients."""
        return self.checkpointed_activation_bytes if self.uses_checkpointing else self.plain_activation_bytes

    @property
    def memory_bytes(self) -> int:
        """Memory that training needs on each device, without the libraries themselves."""
        return self._with_activations(self.activation_bytes)

    @property
    def other_memory_bytes(self) -> int:
        """The same with the opposite `backbone.gradient_checkpointing`."""
        return self._with_activations(
            self.plain_activation_bytes if self.uses_checkpointing else self.checkpointed_activation_bytes
        )

    def _with_activations(self, activations: int) -> int:
        passing = max(activations, self.update_bytes)
        return self.backbone_bytes + self.optimizer_bytes + self.gradient_bytes + passing


def estimate(plan: Plan) -> Estimate:
    """Estimate a plan. No weights are read."""
    backbone = plan.backbone.load_shape(gradient_checkpointing=True)
    prompter = backbone.prompter(plan.task.prompt)
    encoded = plan.encoded("train", backbone, prompter)
    batches_per_epoch = plan.batches_per_epoch(encoded)
    steps = plan.num_steps(batches_per_epoch)
    method = plan.method.attach(backbone)
    gradient_bytes = method.num_trainable * _GRADIENT_BYTES
    weights = _weight_memory(plan, backbone)
    try:
        batch, num_targets = _longest_batch(prompter, encoded, plan.data.batch_size)
        checkpointed = step_memory(backbone, method, batch, num_targets, micro_batches=plan.accumulation)
        with backbone.without_checkpointing():
            plain = step_memory(backbone, method, batch, num_targets, micro_batches=plan.accumulation)
        return Estimate(
            num_trainable=method.num_trainable,
            num_stored=method.num_stored,
            num_frozen=backbone.num_parameters,
            steps=steps,
            epochs=steps * plan.accumulation / batches_per_epoch,
            pairs=len(encoded),
            longest_tokens=int(encoded.lengths.max()),
            num_devices=plan.num_ranks,
            backbone_bytes=weights.in_layers,
            optimizer_bytes=method.num_trainable * _STATE_BYTES,
            gradient_bytes=gradient_bytes,
            plain_activation_bytes=_step_bytes(plain, weights) - gradient_bytes,
            checkpointed_activation_bytes=_step_bytes(checkpointed, weights) - gradient_bytes,
            uses_checkpointing=plan.backbone.gradient_checkpointing,
            update_bytes=_update_bytes(plan, method) + max(0, plain.after_backward - gradient_bytes),
            hidden_state_bytes=hidden_state_bytes(encoded, backbone) if plan.data.cache_hidden_states else 0,
            selection=_selection(plan, batches_per_epoch),
            plan_notes=(*plan_notes(plan, batches_per_epoch), *rate_notes(plan, encoded)),
            notes=tuple(method.notes),
            backbone_notes=plan.backbone.notes,
        )
    finally:
        method.detach()


def _selection(plan: Plan, batches_per_epoch: int) -> str:
    """What is decoded to choose the best checkpoint."""
    if plan.training.metric is None:
        return ""
    times = plan.training.num_decodings(plan.num_validations(batches_per_epoch))
    given = plan.training.select_examples
    inputs = "all validation inputs" if given is None else f"{given} validation inputs"
    return (
        f"{times} times {inputs} are decoded for {plan.training.select_by}, each to at most "
        f"{plan.decoding.max_new_tokens} tokens"
    )


def _weight_memory(plan: Plan, backbone: Backbone) -> RankMemory:
    """Memory of the weights on each device, whole or sharded."""
    if plan.is_sharded and plan.num_ranks > 1:
        return backbone.memory_per_rank(plan.num_ranks)
    return RankMemory(backbone.num_bytes, backbone.num_bytes)


def _step_bytes(step: StepMemory, weights: RankMemory) -> int:
    """Memory of a step besides `weights.in_layers`; its peak is inside a layer or where the backward pass begins."""
    return max(step.peak, step.at_backward_start + weights.at_ends - weights.in_layers)


def _update_bytes(plan: Plan, method: Method) -> int:
    """Temporary memory of the update: as much as all gradients, or twice the largest one."""
    sizes = [parameter.numel() * _GRADIENT_BYTES for parameter in method.trainable_parameters().values()]
    # AdamW updates all parameters at once on a GPU; elsewhere one after another, with two temporary tensors for each.
    is_whole = plan.num_ranks > 1 or plan.backbone.torch_device.type == "cuda"
    return max(sum(sizes) if is_whole else 0, 2 * max(sizes))


def _longest_batch(prompter: Prompter, encoded: EncodedSplit, batch_size: int) -> tuple[ModelInputs, int]:
    """A batch of the longest row on the meta device, and the number of positions whose logits are computed."""
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
