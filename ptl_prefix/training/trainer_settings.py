"""Checks of the settings of Lightning's Trainer, before anything is computed.

In: the settings of `trainer`, and the backbone's device. Out: one sentence for each setting that Lightning would refuse
late, that would silently spoil a training, or that users cannot set.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ptl_prefix.backbones.spec import BackboneSpec

_TIME_UNITS = {"weeks", "days", "hours", "minutes", "seconds"}
_PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""In all of them the trainable parameters are float32."""
_RESERVED = {
    "barebones": "a run always has a log and checkpoints",
    "callbacks": "ptl_prefix sets them",
    "logger": "events.jsonl is the log",
    "enable_autolog_hparams": "the whole config is logged",
    "enable_checkpointing": "checkpoints are written at every validation",
    "check_val_every_n_epoch": "set the interval by `trainer.val_check_interval`",
    "use_distributed_sampler": "the rows of a batch are divided among the ranks by `data`",
    "default_root_dir": "the run's folder is `hydra.run.dir`",
    "enable_model_summary": "parameters are counted in the record, and by dry_run=true",
    "fast_dev_run": "for a short run give `trainer.max_steps`",
    "inference_mode": "validation and decoding never record gradients",
    "limit_predict_batches": "limit the decoded inputs by `evaluation.num_examples`",
    "limit_test_batches": "limit the decoded inputs by `evaluation.num_examples`",
    "limit_train_batches": "limit the steps by `trainer.max_steps`, or the examples by settings of the task",
    "min_epochs": "early stopping is by `optimizer.early_stopping_patience`",
    "min_steps": "early stopping is by `optimizer.early_stopping_patience`",
    "model_registry": "the best checkpoint is exported as a bundle",
    "num_sanity_val_steps": "the bare backbone is evaluated first",
    "overfit_batches": "limit the examples by settings of the task",
    "plugins": "ptl_prefix starts the ranks and scales the loss itself",
    "reload_dataloaders_every_n_epochs": "the order of batches follows from the seed",
}
"""Arguments of Lightning's Trainer that users cannot set, each with the reason or the setting in its place."""


def trainer_problems(trainer: Mapping[str, Any]) -> list[str]:
    """Settings that Lightning's Trainer would refuse late, or that users cannot set."""
    problems = []
    steps, epochs = trainer.get("max_steps", -1), trainer.get("max_epochs")
    if steps == -1 and epochs in (None, -1):
        problems.append("`trainer.max_steps` or `trainer.max_epochs` must end the run, but neither does.")
    for key, law, holds in _LAWS:
        value = trainer.get(key)
        if value is not None and not holds(value):
            problems.append(f"`trainer.{key}` {law}, but is {value!r}.")
    problems += _device_problems(trainer)
    for key in _RESERVED:
        if key in trainer:
            problems.append(f"`trainer.{key}` must be left to ptl_prefix, but is given; {_RESERVED[key]}.")
    return problems


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _is_limit(value: Any) -> bool:
    """Whether a value is a count, or -1 for no limit."""
    return value == -1 or _is_count(value)


def _is_no_float_or_a_share(value: Any) -> bool:
    return not isinstance(value, float) or 0 < value <= 1


def _is_time(value: Any) -> bool:
    """Whether Lightning's timer can read a value."""
    if isinstance(value, Mapping):
        return bool(value) and set(value) <= _TIME_UNITS and all(_is_number(one) for one in value.values())
    return isinstance(value, str) and re.fullmatch(r"\d+:\d\d:\d\d:\d\d", value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0


_LAWS: Sequence[tuple[str, str, Callable[[Any], bool]]] = (
    ("max_steps", "must be >= 0, or -1 for no limit", lambda value: value == 0 or _is_limit(value)),
    ("max_epochs", "must be >= 1", _is_limit),
    ("accumulate_grad_batches", "must be >= 1", _is_count),
    ("log_every_n_steps", "must be >= 1", _is_count),
    # A negative limit would turn the gradients around, and the training would go uphill.
    ("gradient_clip_val", "must be a finite number >= 0, or null for no clipping", _is_number),
    ("gradient_clip_algorithm", "must be norm or value", ("norm", "value").__contains__),
    ("val_check_interval", "as a fraction of an epoch must be in (0, 1]", _is_no_float_or_a_share),
    ("val_check_interval", "must be >= 1", lambda value: not isinstance(value, int) or value >= 1),
    (
        "val_check_interval",
        "must be a number of training batches, or a float for a fraction of an epoch",
        lambda value: isinstance(value, (int, float)),
    ),
    (
        "limit_val_batches",
        "must be a share in (0, 1] or at least one batch",
        lambda value: _is_no_float_or_a_share(value) and (isinstance(value, float) or _is_count(value)),
    ),
    ("max_time", "must be a time 'DD:HH:MM:SS' or a mapping such as {hours: 2}", _is_time),
    ("profiler", "must be simple, advanced or null", ("simple", "advanced").__contains__),
)
"""The law of each setting that has one, in words and as a function."""


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
