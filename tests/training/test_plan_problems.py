from typing import Any

import pytest
from support.no_task import NoTask

from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.methods.prompt_tuning import PromptTuning
from ptl_prefix.training.plan_problems import plan_problems
from ptl_prefix.training.settings import TrainingSettings


class LabelledTask(NoTask):
    label_set = ("yes", "no")


def problems(**parts: Any) -> list[str]:
    nothing = dict.fromkeys(("trainer", "backbone", "method", "task", "decoding"))
    return plan_problems(**{**nothing, **parts})


def test_without_parts_there_is_nothing_to_check() -> None:
    assert problems() == []


@pytest.mark.parametrize(("task", "is_refused"), [(LabelledTask(), False), (NoTask(), True)])
def test_a_start_from_labels_needs_a_task_with_labels(task: NoTask, is_refused: bool) -> None:
    found = problems(backbone=BackboneSpec(), method=PromptTuning(init="labels"), task=task)

    assert any("`method.init=labels`" in problem for problem in found) == is_refused


class InstructedTask(NoTask):
    instruction = "Describe the table."


@pytest.mark.parametrize("method", [PrefixTuning(init="text"), PromptTuning(init="text")], ids=["prefix", "prompt"])
@pytest.mark.parametrize(("task", "is_refused"), [(InstructedTask(), False), (NoTask(), True)])
def test_a_start_from_text_takes_the_task_s_instruction(task: NoTask, is_refused: bool, method: Method) -> None:
    found = problems(backbone=BackboneSpec(), method=method, task=task)

    assert any("the task has no `task.instruction`" in problem for problem in found) == is_refused


@pytest.mark.parametrize(
    ("limit", "examples", "is_refused"),
    [(1.0, 5, False), (None, 5, False), (10, None, False), (10, 5, True), (0.5, 5, True)],
)
def test_validations_are_limited_in_one_way(limit: float | None, examples: int | None, is_refused: bool) -> None:
    training = TrainingSettings(validation_examples=examples)
    found = problems(trainer={"max_steps": 1, "limit_val_batches": limit}, training=training)

    assert any("`trainer.limit_val_batches` must be null" in problem for problem in found) == is_refused


def test_problems_of_several_parts_are_reported_together() -> None:
    trainer = {"max_steps": -2, "accelerator": "gpu", "strategy": "fsdp"}
    found = problems(trainer=trainer, backbone=BackboneSpec(device="cpu"), method=PromptTuning(init_text="words"))

    settings = ("trainer.max_steps", "trainer.accelerator", "method.init_text")
    assert all(any(f"`{setting}`" in problem for problem in found) for setting in settings)
