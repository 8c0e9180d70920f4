"""Sentences about settings of a training that are valid, but probably not what the user means.

In: a `Plan`, and the steps that follow from its data. Out: one sentence for each such setting, which training and the
dry run print before anything is computed.
"""

import filecmp
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ptl_prefix.artifacts.fingerprint import num_cores
from ptl_prefix.backbones.attention_sites import has_native_bfloat16
from ptl_prefix.training.plan import Plan

_FILES = ("train_file", "validation_file", "test_file")


def plan_notes(plan: Plan, batches_per_epoch: int) -> list[str]:
    """The sentences about a plan.

    Args:
        plan: Plan of the training.
        batches_per_epoch: Training batches of one epoch.
    """
    return [
        *_length_notes(plan, batches_per_epoch),
        *_schedule_notes(plan, batches_per_epoch),
        *_selection_notes(plan, batches_per_epoch),
        *_device_notes(plan),
        *_dtype_notes(plan),
        *_cache_notes(plan, batches_per_epoch),
        *_file_notes(plan.config.get("task", {})),
    ]


def _length_notes(plan: Plan, batches_per_epoch: int) -> Iterator[str]:
    """A run without steps; which of `max_steps` and `max_epochs` ends the run, where both are set."""
    if plan.trains_nothing:
        yield f"`trainer.max_steps` is 0: nothing is trained, and the bundle holds the start of {plan.method.name}."
        return
    steps, epochs = plan.trainer.get("max_steps", -1), plan.trainer.get("max_epochs")
    if steps == -1 or epochs in (None, -1):
        return
    if plan.num_steps(batches_per_epoch) < steps:
        yield f"`trainer.max_epochs` ({epochs}) ends the run, before `trainer.max_steps` ({steps})."
    else:
        reached = steps * plan.accumulation / batches_per_epoch
        yield (
            f"`trainer.max_steps` ({steps}) ends the run after {reached:.2f} epochs, so `trainer.max_epochs` "
            f"({epochs}) has no effect; set trainer.max_steps=-1 to train for {epochs} epochs."
        )


def _schedule_notes(plan: Plan, batches_per_epoch: int) -> Iterator[str]:
    num_steps, warmup = plan.num_steps(batches_per_epoch), plan.optimization.warmup_steps
    if num_steps and warmup >= num_steps:
        yield (
            f"`optimizer.warmup_steps` ({warmup}) should be less than the {num_steps} steps of the run: the learning "
            "rate rises until the end and never decays."
        )


def _selection_notes(plan: Plan, batches_per_epoch: int) -> Iterator[str]:
    """Where the choice of the best checkpoint chooses nothing, or makes the final scores too good."""
    key = plan.training.select_by
    if plan.training.metric is None:
        return
    if plan.training.num_decodings(number := plan.num_validations(batches_per_epoch)) == 1:
        yield (
            f"`training.select_by` ({key}) is measured once, at the end, as the run has {number} validation(s) and "
            f"`training.select_every` is {plan.training.select_every}: there is no choice between checkpoints."
        )
    if "test" not in plan.task.splits:
        yield (
            f"`training.select_by` ({key}) chooses the checkpoint on the split that the run is scored on, as the task "
            f"{plan.task.name} has no test split: the final score is too good."
        )


def _device_notes(plan: Plan) -> Iterator[str]:
    num_processes = int(plan.trainer.get("devices") or 1)
    if plan.backbone.torch_device.type == "cpu" and num_processes > num_cores():
        yield (
            f"`trainer.devices` ({num_processes}) is more than the {num_cores()} cores that this process may use: the "
            "processes will wait for each other."
        )


def _dtype_notes(plan: Plan) -> Iterator[str]:
    """A dtype that the device has no instructions for: its products are computed in another one, and converted."""
    device = plan.backbone.torch_device
    if has_native_bfloat16(device):
        return
    if plan.backbone.torch_dtype is torch.bfloat16:
        setting, better = "`backbone.dtype` is bfloat16", "backbone.dtype=auto"
    elif str(plan.trainer.get("precision")).startswith("bf16"):
        setting, better = f"`trainer.precision` is {plan.trainer['precision']}", "trainer.precision=32-true"
    else:
        return
    yield (
        f"{setting}, but this {device.type} has no instructions for bfloat16: a step takes several times as long as in "
        f"float32; set {better} unless the memory is too small for it."
    )


def _cache_notes(plan: Plan, batches_per_epoch: int) -> Iterator[str]:
    """Hidden states that are computed for all rows, and used at most once."""
    steps = plan.num_steps(batches_per_epoch)
    if plan.data.cache_hidden_states and steps * plan.accumulation <= batches_per_epoch:
        yield (
            "`data.cache_hidden_states` computes the lower layers for all training rows before the first step, but the "
            f"{steps} steps of the run read each row at most once: it saves time only if other runs use the same "
            "states."
        )


def _file_notes(task: Mapping[str, Any]) -> Iterator[str]:
    """Splits that are read from the same file, or from files with the same content."""
    given = [(key, Path(str(task[key]))) for key in _FILES if task.get(key) is not None]
    for index, (key, path) in enumerate(given):
        for earlier, other in given[:index]:
            if _is_same_file(path, other):
                yield (
                    f"`task.{key}` has the same content as `task.{earlier}` ('{other}'), so its numbers say nothing "
                    "about inputs that the training has not seen."
                    if earlier == "train_file"
                    else f"`task.{key}` has the same content as `task.{earlier}` ('{other}'): the checkpoint is "
                    "chosen on the inputs that it is tested on."
                )


def _is_same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other) or filecmp.cmp(path, other, shallow=False)
    except OSError:
        return False
