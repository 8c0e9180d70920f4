"""Checks of the settings of Lightning's Trainer, before anything is computed.

In: the settings of `trainer`, and the backbone's device. Out: one sentence for each setting that Lightning would refuse
late, that would silently spoil a training, or that users cannot set.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ptl_prefix.backbones.spec import BackboneSpec

_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""In all of them the trainable parameters are float32."""
_RESERVED = {
    "barebones": "a run always has a log and checkpoints",
    "callbacks": "ptl_prefix sets them",
    "logger": "events.jsonl is the log",
    "enable_checkpointing": "checkpoints are written at every validation",
    "check_val_every_n_epoch": "set the interval by `trainer.val_check_interval`",
    "use_distributed_sampler": "the rows of a batch are divided among the ranks by `data`",
    "default_root_dir": "the run's folder is `hydra.run.dir`",
    "enable_model_summary": "parameters are counted in the record, and by dry_run=true",
    "fast_dev_run": "for a short run give `trainer.max_steps`",
    "limit_predict_batches": "limit the decoded inputs by `evaluation.num_examples`",
    "limit_test_batches": "limit the decoded inputs by `evaluation.num_examples`",
    "limit_train_batches": "limit the steps by `trainer.max_steps`, or the examples by settings of the task",
    "min_epochs": "early stopping is by `optimizer.early_stopping_patience`",
    "min_steps": "early stopping is by `optimizer.early_stopping_patience`",
    "num_sanity_val_steps": "the bare backbone is evaluated first",
    "overfit_batches": "limit the examples by settings of the task",
    "reload_dataloaders_every_n_epochs": "the order of batches follows from the seed",
}
"""Arguments of Lightning's Trainer that users cannot set, each with the reason or the setting in its place."""


def trainer_problems(trainer: Mapping[str, Any]) -> list[str]:
    """Settings that Lightning's Trainer would refuse late, or that users cannot set."""
    problems = []
    steps, epochs = trainer.get("max_steps", -1), trainer.get("max_epochs")
    if steps == -1 and epochs in (None, -1):
        problems.append("`trainer.max_steps` or `trainer.max_epochs` must end the run, but neither does.")
    for key, least in (("max_steps", 1), ("max_epochs", 1), ("accumulate_grad_batches", 1), ("log_every_n_steps", 1)):
        value = trainer.get(key)
        is_unlimited = value == -1 and key in ("max_steps", "max_epochs")
        if value is not None and value < least and not is_unlimited:
            problems.append(f"`trainer.{key}` must be >= {least}, but is {value}.")
    if trainer.get("gradient_clip_algorithm") not in (None, "norm", "value"):
        problems.append(
            f"`trainer.gradient_clip_algorithm` must be norm or value, but is {trainer['gradient_clip_algorithm']!r}."
        )
    problems += _device_problems(trainer)
    interval = trainer.get("val_check_interval")
    if isinstance(interval, float) and not 0 < interval <= 1:
        problems.append(f"`trainer.val_check_interval` as a fraction of an epoch must be in (0, 1], but is {interval}.")
    if isinstance(interval, int) and interval < 1:
        problems.append(f"`trainer.val_check_interval` must be >= 1, but is {interval}.")
    share = trainer.get("limit_val_batches")
    if share is not None and not (0 < share <= 1 if isinstance(share, float) else share >= 1):
        problems.append(f"`trainer.limit_val_batches` must be a share in (0, 1] or at least one batch, but is {share}.")
    for key in _RESERVED:
        if key in trainer:
            problems.append(f"`trainer.{key}` must be left to ptl_prefix, but is given; {_RESERVED[key]}.")
    return problems


def _device_problems(trainer: Mapping[str, Any]) -> list[str]:
    """Settings of several devices that are not supported."""
    problems, counts = [], {}
    for key in ("devices", "num_nodes"):
        given = 1 if trainer.get(key) is None else trainer[key]
        is_number = str(given).isdigit() and int(given) >= 1
        counts[key] = int(given) if is_number else 1
        if not is_number:
            problems.append(
                f"`trainer.{key}` must be a number >= 1, as it decides the rows of a step, but is {given!r}."
            )
    strategies = ("auto", "ddp", "fsdp")
    if trainer.get("strategy", "auto") not in (None, *strategies):
        problems.append(
            f"`trainer.strategy` must be one of {', '.join(strategies)}, but is {trainer['strategy']!r}; each "
            "divides the batches among the devices and sums the gradients, and fsdp also shards the backbone."
        )
    if counts["devices"] > 1 and trainer.get("accelerator") == "mps":
        problems.append(f"`trainer.devices` must be 1 where the accelerator is mps, but is {counts['devices']}.")
    return problems


def accelerator_problems(trainer: Mapping[str, Any], backbone: BackboneSpec) -> list[str]:
    """An accelerator that contradicts the backbone's device."""
    accelerator, device = trainer.get("accelerator"), backbone.torch_device.type
    if accelerator in (None, "auto", device) or (accelerator, device) == ("gpu", "cuda"):
        return []
    return [
        f"`trainer.accelerator` must be auto or where the backbone is ({device}), but is {accelerator!r}; "
        "`backbone.device` decides."
    ]


def precision_problems(trainer: Mapping[str, Any], backbone: BackboneSpec) -> list[str]:
    """A precision in which trainable parameters would be rounded, or gradients would underflow."""
    precision, device = trainer.get("precision") or "32-true", backbone.torch_device.type
    if precision not in _PRECISIONS:
        return [
            f"`trainer.precision` must be one of {', '.join(_PRECISIONS)}, but is {precision!r}; trainable "
            "parameters are always float32, and the backbone computes in `backbone.dtype`."
        ]
    if precision == "16-mixed" and device == "cpu":
        return [
            "`trainer.precision` 16-mixed needs a GPU, but the backbone is on the CPU; use "
            "trainer.precision=32-true backbone.dtype=bfloat16, which is as small and needs no loss scaling."
        ]
    if backbone.torch_dtype == torch.float16 and precision != "16-mixed":
        return [
            "`trainer.precision` must be 16-mixed for a backbone in float16, as small gradients underflow without loss "
            f"scaling, but is {precision!r}; set it, or choose backbone.dtype=bfloat16."
        ]
    return []
