from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.tiny_runs import TinyRuns

from ptl_prefix.data.tasks.text_pairs import TextPairs


def unlimited(**trainer: Any) -> dict[str, Any]:
    """The small config's trainer without its steps."""
    return {"trainer__max_steps": -1, **{f"trainer__{key}": value for key, value in trainer.items()}}


@pytest.mark.parametrize(
    ("trainer", "steps"),
    [
        ({"max_steps": 7}, 7),
        ({"max_epochs": 3}, 30),
        ({"max_epochs": 3, "max_steps": 7}, 7),
        ({"max_epochs": 1, "max_steps": 70}, 10),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"max_epochs": 3, "accumulate_grad_batches": 4}, 8),  # 30 batches: the last step takes two of a fourth epoch
        ({"max_steps": 7, "accumulate_grad_batches": 4}, 7),
    ],
)
def test_a_run_ends_at_max_steps_or_max_epochs(tiny_runs: TinyRuns, trainer: dict[str, int], steps: int) -> None:
    plan = tiny_runs.plan(**unlimited(**trainer))

    assert plan.num_steps(batches_per_epoch=10) == steps


@pytest.mark.parametrize(
    ("interval", "accumulation", "batches"),
    [
        (3, 1, 3),
        (3, 4, 4),
        (8, 4, 8),
        (9, 4, 12),
        (0.5, 1, 5),
        (0.5, 4, 8),
        (1.0, 1, 10),
        (0.01, 1, 1),
        (None, 1, 10),
        (100, 1, 100),  # longer than an epoch
    ],
)
def test_validations_are_whole_steps_apart(
    tiny_runs: TinyRuns, interval: float | None, accumulation: int, batches: int
) -> None:
    plan = tiny_runs.plan(trainer__val_check_interval=interval, trainer__accumulate_grad_batches=accumulation)

    assert plan.val_check_interval(batches_per_epoch=10) == batches


@pytest.mark.parametrize(("limit", "rows"), [(1.0, 30), (None, 30), (0.5, 15), (0.001, 1), (1, 4), (3, 12), (100, 30)])
def test_validation_may_be_limited_to_batches_or_a_share(tiny_runs: TinyRuns, limit: float | None, rows: int) -> None:
    plan = tiny_runs.plan(trainer__limit_val_batches=limit, data__eval_batch_size=4)

    assert plan.num_validation_rows(30) == rows


@pytest.mark.parametrize(
    ("trainer", "sentence"),
    [
        (unlimited(), "`trainer.max_steps` or `trainer.max_epochs` must end the run, but neither does."),
        (unlimited(max_epochs=-1), "must end the run, but neither does."),
        (unlimited(max_steps=-2), "`trainer.max_steps` must be >= 0, or -1 for no limit, but is -2."),
        (unlimited(max_epochs=0), "`trainer.max_epochs` must be >= 1, but is 0."),
        ({"trainer__accumulate_grad_batches": 0}, "`trainer.accumulate_grad_batches` must be >= 1, but is 0."),
        ({"trainer__accumulate_grad_batches": -1}, "`trainer.accumulate_grad_batches` must be >= 1, but is -1."),
        ({"trainer__log_every_n_steps": 0}, "`trainer.log_every_n_steps` must be >= 1, but is 0."),
        ({"trainer__val_check_interval": 0}, "`trainer.val_check_interval` must be >= 1, but is 0."),
        ({"trainer__val_check_interval": 1.5}, "as a fraction of an epoch must be in (0, 1], but is 1.5."),
        ({"trainer__val_check_interval": 0.0}, "as a fraction of an epoch must be in (0, 1], but is 0.0."),
        ({"trainer__limit_val_batches": 0}, "must be a share in (0, 1] or at least one batch, but is 0."),
        ({"trainer__limit_val_batches": 0.0}, "must be a share in (0, 1] or at least one batch, but is 0.0."),
        ({"trainer__limit_val_batches": 1.5}, "must be a share in (0, 1] or at least one batch, but is 1.5."),
        ({"trainer__accelerator": "gpu"}, "`trainer.accelerator` must be auto or where the backbone is (cpu), but is"),
        ({"trainer__devices": "auto"}, "`trainer.devices` must be a number >= 1"),
        ({"trainer__devices": 0}, "`trainer.devices` must be a number >= 1"),
        ({"trainer__devices": [0, 1]}, "`trainer.devices` must be a number >= 1"),
        ({"trainer__num_nodes": 0}, "`trainer.num_nodes` must be a number >= 1"),
        ({"trainer__strategy": "dp"}, "`trainer.strategy` must be one of auto, ddp, fsdp, but is 'dp'"),
        (
            {"trainer__devices": 2, "trainer__accelerator": "mps"},
            "`trainer.devices` must be 1 where the accelerator is mps, but is 2.",
        ),
        (
            {"trainer__devices": 2, "trainer__strategy": "fsdp", "backbone__quantization": "bitsandbytes_8bit"},
            "`backbone.quantization` must be null with `trainer.strategy` fsdp",
        ),
        ({"trainer__gradient_clip_val": -1}, "`trainer.gradient_clip_val` must be a finite number >= 0, or null"),
        ({"trainer__gradient_clip_val": float("nan")}, "`trainer.gradient_clip_val` must be a finite number >= 0"),
        ({"trainer__val_check_interval": "abc"}, "`trainer.val_check_interval` must be a number of training batches"),
        ({"trainer__val_check_interval": "00:10:00"}, "`trainer.val_check_interval` must be a number of training"),
        ({"trainer__val_check_interval": {"minutes": 10}}, "`trainer.val_check_interval` must be a number of training"),
        ({"trainer__limit_val_batches": "abc"}, "must be a share in (0, 1] or at least one batch, but is 'abc'."),
        ({"trainer__max_time": "abc"}, "`trainer.max_time` must be a time 'DD:HH:MM:SS'"),
        ({"trainer__max_time": {"fortnights": 1}}, "`trainer.max_time` must be a time 'DD:HH:MM:SS'"),
        ({"trainer__profiler": "abc"}, "`trainer.profiler` must be simple, advanced or null, but is 'abc'."),
        ({"trainer__gradient_clip_algorithm": "sum"}, "must be norm or value, but is 'sum'."),
        (
            {"trainer__precision": "16-mixed"},
            "`trainer.precision` 16-mixed needs a GPU, but the backbone is on",
        ),
        ({"trainer__precision": "bf16-true"}, "must be one of 32-true, bf16-mixed, 16-mixed, but is 'bf16-true'"),
        ({"backbone__dtype": "float16"}, "`trainer.precision` must be 16-mixed for a backbone in float16"),
        ({"method__prefix_length": 160}, "`method.prefix_length` must be less than the 160 positions"),
        ({"method__prefix_length": 158}, "must hold a prompt and its target beside the method, which leaves 2"),
        (
            {"generation__max_new_tokens": 157},
            "The 160 positions of tiny must hold a prompt and `generation.max_new_tokens` beside the method, "
            "which leaves 157, but that takes at least 159.",
        ),
    ],
)
def test_problems_are_found_before_any_weights_load(
    tiny_runs: TinyRuns, trainer: dict[str, Any], sentence: str
) -> None:
    problems = tiny_runs.plan(**trainer).problems()

    assert any(sentence in problem for problem in problems), problems


def test_all_problems_are_reported_at_once(tiny_runs: TinyRuns) -> None:
    problems = tiny_runs.plan(
        **unlimited(limit_val_batches=0, accumulate_grad_batches=0), method__layers=[0, 9]
    ).problems()

    assert len(problems) == 4


RESERVED = [
    "barebones",
    "callbacks",
    "check_val_every_n_epoch",
    "default_root_dir",
    "enable_autolog_hparams",
    "enable_checkpointing",
    "enable_model_summary",
    "fast_dev_run",
    "inference_mode",
    "limit_predict_batches",
    "limit_test_batches",
    "limit_train_batches",
    "logger",
    "min_epochs",
    "min_steps",
    "model_registry",
    "num_sanity_val_steps",
    "overfit_batches",
    "plugins",
    "reload_dataloaders_every_n_epochs",
    "use_distributed_sampler",
]


def test_a_reserved_argument_of_the_trainer_is_refused_with_a_reason(tiny_runs: TinyRuns) -> None:
    problems = tiny_runs.plan(**{f"trainer__{argument}": 1 for argument in RESERVED}).problems()

    assert len(problems) == len(RESERVED)
    for argument in RESERVED:
        assert any(f"`trainer.{argument}` must be left to ptl_prefix, but is given; " in text for text in problems)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        unlimited(max_epochs=3, accumulate_grad_batches=4, val_check_interval=0.25, limit_val_batches=0.5),
        {"trainer__val_check_interval": None, "trainer__limit_val_batches": 3, "trainer__max_epochs": -1},
        {"trainer__gradient_clip_algorithm": "value", "trainer__enable_progress_bar": False},
    ],
)
def test_a_plan_that_can_run_has_no_problems(tiny_runs: TinyRuns, changes: dict[str, Any]) -> None:
    assert tiny_runs.plan(**changes).problems() == []


def test_a_task_without_validation_is_refused_and_one_without_a_test_is_not(
    tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"source": "a", "target": "b"}\n')
    pairs = {"name": "text_pairs", "train_file": str(file)}
    (problem,) = replace(tiny_runs.plan(), task=TextPairs(**pairs)).problems()

    assert "Training needs a validation split, but text_pairs has none" in problem
    assert replace(tiny_runs.plan(), task=TextPairs(**pairs, validation_file=str(file))).problems() == []
