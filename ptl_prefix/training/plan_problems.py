"""Every way in which the parts of a training do not fit together, found before any weights load.

In: the settings of Lightning's Trainer and the built parts; a part that has problems of its own is left out. Out: one
sentence for each problem. The check of a config and `Plan` share this list.
"""

from collections.abc import Mapping
from typing import Any

import torch

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.task import Task
from ptl_prefix.errors import PtlPrefixError, StorageError
from ptl_prefix.evaluation.metric import metric_name_mistakes
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.start_inputs import StartInputs, TrainingRows
from ptl_prefix.training.optimization import Optimization
from ptl_prefix.training.settings import TrainingSettings, selection_problems
from ptl_prefix.training.trainer_settings import accelerator_problems, precision_problems, trainer_problems


def plan_problems(
    *,
    trainer: Mapping[str, Any] | None,
    backbone: BackboneSpec | None,
    method: Method | None,
    task: Task | None,
    decoding: Decoding | None,
    data: DataSettings | None = None,
    training: TrainingSettings | None = None,
    optimization: Optimization | None = None,
    needs_weights: bool = True,
    routing: str = "none",
) -> list[str]:
    """The problems of the given parts, one sentence each.

    Args:
        trainer: Arguments of Lightning's `Trainer`, by its own names; `None` leaves out what depends on them, and so
            for the other parts.
        backbone: Backbone, on the device where the run would load it.
        method: Method, not attached.
        task: Task.
        decoding: Settings of text generation.
        data: Settings of encoding and batches.
        training: Choice of the best checkpoint.
        optimization: Optimizer and label smoothing.
        needs_weights: Whether the backbone's weights will be loaded; a dry run needs none.
        routing: What the bundle says of the task's texts.
    """
    problems = [] if trainer is None else [*trainer_problems(trainer), *routing_problems(trainer, routing)]
    if trainer is not None and backbone is not None and method is not None:
        problems += accelerator_problems(trainer, backbone) + precision_problems(trainer, backbone)
    if task is not None:
        problems += split_problems(task) + metric_name_mistakes(task.metrics, "task.metrics")
    problems += selection_problems(training, task) + subset_problems(training, trainer)
    problems += smoothing_problems(optimization, has_teacher=task is not None and task.has_teacher)
    if backbone is None or method is None:
        return problems
    if needs_weights:
        problems += backbone.weight_problems()
    if task is not None:
        method.provide_start_inputs(start_inputs(task))
    try:
        shape = backbone.load_shape()
        method.choose_settings(shape)
        problems += [] if trainer is None else sharding_problems(trainer, method, shape)
        problems += [] if task is None else teacher_problems(task, shape)
        of_method = method.incompatibilities(shape)
        if not of_method and task is not None and decoding is not None:
            of_method = position_budget_problems(shape, method, task, decoding)
        problems += of_method + packing_problems(data, shape, method, task)
        problems += [] if of_method else cache_problems(data, trainer, backbone, shape, method)
    except StorageError:
        raise  # the cache's disk, not the config
    except PtlPrefixError as error:
        problems.append(str(error) if str(error).startswith("`backbone") else f"`backbone.path`: {error}")
    except ValueError as error:
        problems.append(str(error))
    return problems


def start_inputs(task: Task, training_rows: TrainingRows | None = None) -> StartInputs:
    """What a task gives a method for its initialisation; training rows once they are encoded."""
    return StartInputs(
        read_labels=lambda: task.label_set,
        instruction=task.instruction,
        read_document=lambda: task.document,
        training_rows=training_rows,
        gives_rows=True,
    )


def position_budget_problems(backbone: Backbone, method: Method, task: Task, decoding: Decoding) -> list[str]:
    """Prompts and generated texts that exceed the positions which the method leaves of the context window."""
    try:
        prompter = backbone.prompter(task.prompt)
    except ValueError as error:
        return [f"`task`: {error}"]
    if backbone.max_positions is None:
        return []
    budget = backbone.max_positions - method.reserved_positions(backbone)
    num_prompt, num_end = prompter.num_fixed_tokens, len(prompter.after_ids) + 1
    needed = [
        ("a prompt and its target", num_prompt + num_end, budget),
        ("a prompt and `generation.max_new_tokens`", num_prompt + decoding.max_new_tokens, budget),
    ]
    if prompter.decoder_start_ids is not None:
        num_start, for_target = len(prompter.decoder_start_ids), backbone.max_positions
        needed = [
            ("a prompt", num_prompt, budget),
            ("a target", num_start + num_end, for_target),
            ("a target's start and `generation.max_new_tokens`", num_start + decoding.max_new_tokens, for_target),
        ]
    return [
        f"The {backbone.max_positions} positions of {backbone.name} must hold {what} beside the method, which leaves "
        f"{left}, but that takes at least {tokens}."
        for what, tokens, left in needed
        if tokens > left
    ]


def packing_problems(data: DataSettings | None, backbone: Backbone, method: Method, task: Task | None) -> list[str]:
    """Settings that put several texts into one row, where a row can hold only one."""
    if data is None:
        return []
    return [
        f"`data.{name}` must be false {refusal}; set data.{name}=false."
        for name in ("packing", "share_sources")
        if getattr(data, name)
        for refusal in packing_refusals(backbone, method, task)
    ]


def cache_problems(
    data: DataSettings | None, trainer: Mapping[str, Any] | None, spec: BackboneSpec, backbone: Backbone, method: Method
) -> list[str]:
    """Settings with which what a layer reads cannot be kept, or with which nothing would be saved."""
    if data is None or not data.cache_hidden_states:
        return []
    refusals = []
    if backbone.is_encoder_decoder:
        refusals.append(f"for an encoder-decoder, but {backbone.name} is one")
    elif method.first_layer(backbone) == 0:
        refusals.append(
            f"with '{method.name}', which acts in the lowest layer or before it, so that every layer is computed anew "
            "in each step; name upper layers only (prefix-tuning: `method.layers`)"
        )
    if spec.base_mode == "train":
        refusals.append("with `backbone.base_mode` train, as the backbone's dropout differs in each step")
    if not method.has_fixed_positions:
        refusals.append("with `method.distractors`, which shift the text by a drawn number of positions")
    if trainer is not None and trainer.get("strategy") == "fsdp":
        refusals.append("with `trainer.strategy` fsdp, where no rank has the whole backbone")
    return [f"`data.cache_hidden_states` must be false {refusal}." for refusal in refusals]


def packing_refusals(backbone: Backbone, method: Method, task: Task | None) -> list[str]:
    """Why a row of a batch cannot hold several texts, each as the part of a sentence after "must be false"."""
    refusals = []
    if backbone.is_encoder_decoder:
        refusals.append(f"for an encoder-decoder, but {backbone.name} is one")
    if task is not None and task.has_teacher:
        refusals.append(f"for {task.name}, whose teacher is matched in rows of one answer")
    if method.needs_one_text_per_row:
        refusals.append(f"with '{method.name}', which acts behind the prompt of each row (an infix)")
    return refusals


def subset_problems(training: TrainingSettings | None, trainer: Mapping[str, Any] | None) -> list[str]:
    """A subset of the validation split beside a limit of it: the examples of one would not be among those of both."""
    limit = None if trainer is None else trainer.get("limit_val_batches")
    if training is None or training.validation_examples is None or limit in (None, 1.0):
        return []
    return [
        "`trainer.limit_val_batches` must be null with `training.validation_examples`, which limits the validations "
        f"while training and leaves the last one whole, but is {limit}; set one of them alone."
    ]


def split_problems(task: Task) -> list[str]:
    """Splits that training needs and the task lacks. A test split is optional: validation is decoded instead."""
    return [
        f"Training needs a {split} split, but {task.name} has none; see the settings of `task`."
        for split in ("train", "validation")
        if split not in task.splits
    ]


def sharding_problems(trainer: Mapping[str, Any], method: Method, backbone: Backbone) -> list[str]:
    """A backbone or a method that cannot be trained with sharded weights."""
    if trainer.get("strategy") != "fsdp":
        return []
    problems = []
    if backbone.quantization is not None:
        problems.append(
            "`backbone.quantization` must be null with `trainer.strategy` fsdp, as quantised weights cannot be "
            f"sharded, but is {backbone.quantization}; choose trainer=ddp, where each device holds the whole backbone."
        )
    if (access := method.direct_weight_access(backbone)) is not None:
        problems.append(
            "With `trainer.strategy` fsdp the weights are sharded and only available in whole forward passes, "
            f"but '{method.name}' {access}; choose trainer=ddp, or another method."
        )
    return problems


def smoothing_problems(optimization: Optimization | None, *, has_teacher: bool) -> list[str]:
    """Label smoothing beside a teacher, which says itself how likely other tokens are."""
    if optimization is None or not has_teacher or not optimization.label_smoothing:
        return []
    return [
        "`optimizer.label_smoothing` must be 0 where a teacher is matched, which says how likely each token is, but is "
        f"{optimization.label_smoothing}; set it to 0, or `task.loss` to next_token."
    ]


def teacher_problems(task: Task, backbone: Backbone) -> list[str]:
    """A backbone that cannot learn from the task's teacher."""
    if not task.has_teacher or not backbone.is_encoder_decoder:
        return []
    return [
        f"`task` must be learned by a decoder-only backbone, as its teacher continues a text, but {backbone.name} is "
        "an encoder-decoder; choose another `backbone`."
    ]


def routing_problems(trainer: Mapping[str, Any], routing: str) -> list[str]:
    """Hidden states that rank 0 alone cannot compute."""
    if routing != "hidden_states" or trainer.get("strategy") != "fsdp":
        return []
    return [
        "`routing` must be none or ngrams with `trainer.strategy` fsdp, where no rank has the whole backbone, but is "
        "hidden_states; export the bundle again on one device: ptl-prefix export run=<folder> routing=hidden_states"
    ]


def start_problems(trainer: Mapping[str, Any], backbone: BackboneSpec, num_devices: int) -> list[str]:
    """Reasons why `ptl-prefix` cannot start the ranks of a run on this machine by itself.

    Args:
        trainer: Arguments of Lightning's `Trainer`.
        backbone: Backbone of the run.
        num_devices: Number of ranks to start.
    """
    if int(trainer.get("num_nodes") or 1) > 1:
        return [
            "`trainer.num_nodes` must be 1 where ptl-prefix starts the processes itself; on several machines, torchrun "
            "or Slurm's srun starts it once for each device."
        ]
    device, num_gpus = backbone.torch_device.type, torch.cuda.device_count()
    if device == "mps":
        return [f"`trainer.devices` must be 1 where the backbone is on mps, but is {num_devices}."]
    if device == "cuda" and num_devices > num_gpus:
        return [f"`trainer.devices` must be at most the {num_gpus} GPUs of this machine, but is {num_devices}."]
    return []
