from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from support.tiny_runs import TinyRuns
from torch import Tensor, nn
from torch.optim import Optimizer

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding, left_padded
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.collation import collate_training
from ptl_prefix.data.encoding import encode_split
from ptl_prefix.errors import NonFiniteLossError, RunError
from ptl_prefix.evaluation.loss import mean_loss, target_loss
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.training.lightning_warnings import quiet_lightning
from ptl_prefix.training.loss_scaling import LossScaling
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.plan import Plan

PADDING = Padding(1)


class Watched(AdaptationModule):
    """Remembers the gradients of each step, as the optimizer gets them."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.gradients: list[Tensor] = []

    def configure_gradient_clipping(self, optimizer: Optimizer, *limits: Any, **named_limits: Any) -> None:
        super().configure_gradient_clipping(optimizer, *limits, **named_limits)
        parameters = self.method.trainable_parameters().values()
        self.gradients.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))


class ListOfBatches(list[ModelInputs]):
    """A loader that Lightning leaves alone."""


def watched_fit(
    runs: TinyRuns, batches: Sequence[ModelInputs], *, steps: int, changes: dict[str, Any] | None = None, **trainer: Any
) -> Watched:
    plan, backbone = runs.attached(**(changes or {}))
    module = Watched(backbone, plan.method, plan.optimization, total_steps=steps)
    fit(module, batches, max_steps=steps, **trainer)
    return module


def fit(module: pl.LightningModule, batches: Sequence[ModelInputs], **trainer: Any) -> None:
    """Train on these batches, and validate on the first of them, with a trainer as `training` makes it."""
    arguments = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 1.0,
    }
    with quiet_lightning():
        pl.Trainer(**arguments, **trainer).fit(
            module, train_dataloaders=ListOfBatches(batches), val_dataloaders=ListOfBatches(batches[:1])
        )


def encoded_rows(plan: Plan, backbone: Backbone) -> list[Any]:
    prompter = Prompter(backbone.tokenizer, plan.task.prompt)
    encoded = encode_split(plan.task, "train", prompter, max_tokens=None, settings=plan.data)
    return encoded.rows(range(len(encoded)))


@pytest.fixture(scope="module")
def rows(tiny_runs: TinyRuns) -> list[Any]:
    """Training rows, of unequal target lengths."""
    return encoded_rows(tiny_runs.plan(), tiny_runs.backbone())


def batches_of(rows: list[Any], size: int) -> list[ModelInputs]:
    return [collate_training(rows[start : start + size], padding=PADDING) for start in range(0, len(rows), size)]


def test_accumulated_batches_make_the_step_of_one_large_batch(tiny_runs: TinyRuns, rows: list[Any]) -> None:
    small, large = batches_of(rows[:32], 4), batches_of(rows[:32], 16)
    assert len({int((batch.labels != -100).sum()) for batch in small}) > 1, "the parts must weigh differently"

    accumulated = watched_fit(tiny_runs, small, steps=2, accumulate_grad_batches=4)
    at_once = watched_fit(tiny_runs, large, steps=2)

    for parts, whole in zip(accumulated.gradients, at_once.gradients, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)
    # Adam divides by the gradient's size, so that where it is almost 0, rounding is all there is.
    for name, parameter in accumulated.method.trainable_parameters().items():
        torch.testing.assert_close(parameter, at_once.method.trainable_parameters()[name], rtol=1e-3, atol=1e-3)
    assert accumulated.last_step["train/loss"] == pytest.approx(at_once.last_step["train/loss"], rel=1e-5)


def test_gradient_is_that_of_the_mean_over_target_tokens(tiny_runs: TinyRuns, rows: list[Any]) -> None:
    plan, backbone = tiny_runs.attached()
    loss = target_loss(backbone, plan.method, batches_of(rows[:6], 6)[0])
    (loss.nats / loss.num_tokens).backward()
    parameters = plan.method.trainable_parameters().values()
    wanted = torch.cat([parameter.grad.flatten() for parameter in parameters])

    (gradient,) = watched_fit(tiny_runs, batches_of(rows[:6], 2), steps=1, accumulate_grad_batches=3).gradients

    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)


def test_clipping_by_norm_shortens_the_gradient_and_logs_its_length_before(
    tiny_runs: TinyRuns, rows: list[Any]
) -> None:
    free = watched_fit(tiny_runs, batches_of(rows[:4], 4), steps=1)
    length = float(free.gradients[0].norm())

    clipped = watched_fit(tiny_runs, batches_of(rows[:4], 4), steps=1, gradient_clip_val=length / 10)

    torch.testing.assert_close(clipped.gradients[0], free.gradients[0] / 10, rtol=1e-4, atol=1e-7)
    assert clipped.last_step["train/grad_norm"] == pytest.approx(length, rel=1e-4)


def test_clipping_by_value_bounds_each_number(tiny_runs: TinyRuns, rows: list[Any]) -> None:
    free = watched_fit(tiny_runs, batches_of(rows[:4], 4), steps=1)
    limit = float(free.gradients[0].abs().median())

    clipped = watched_fit(
        tiny_runs, batches_of(rows[:4], 4), steps=1, gradient_clip_val=limit, gradient_clip_algorithm="value"
    )

    torch.testing.assert_close(clipped.gradients[0], free.gradients[0].clamp(-limit, limit), rtol=1e-4, atol=1e-7)
    assert clipped.last_step["train/grad_norm"] == pytest.approx(float(free.gradients[0].norm()), rel=1e-4)


def test_a_limit_of_0_clips_nothing_as_in_lightning(tiny_runs: TinyRuns, rows: list[Any]) -> None:
    free = watched_fit(tiny_runs, batches_of(rows[:4], 4), steps=1)

    zero = watched_fit(tiny_runs, batches_of(rows[:4], 4), steps=1, gradient_clip_val=0)

    assert torch.equal(zero.gradients[0], free.gradients[0])


def test_a_gradient_that_is_not_finite_is_refused_by_its_step(tiny_runs: TinyRuns, rows: list[Any]) -> None:
    class Overflowing(Watched):
        def training_step(self, batch: ModelInputs, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            loss.register_hook(lambda gradient: gradient * (float("inf") if batch_idx == 1 else 1.0))
            return loss

    plan, backbone = tiny_runs.attached()
    module = Overflowing(backbone, plan.method, plan.optimization, total_steps=3)

    with pytest.raises(NonFiniteLossError, match=r"step 2 gave (nan|inf)"):
        fit(module, batches_of(rows[:12], 4), max_steps=3)


class TestWithAScaledLoss:
    def test_gradients_are_unscaled_before_they_are_clipped_and_logged(
        self, tiny_runs: TinyRuns, rows: list[Any]
    ) -> None:
        free = watched_fit(tiny_runs, batches_of(rows[:8], 4), steps=1, accumulate_grad_batches=2)
        length = float(free.gradients[0].norm())

        clipped = watched_fit(
            tiny_runs,
            batches_of(rows[:8], 4),
            steps=1,
            accumulate_grad_batches=2,
            gradient_clip_val=length / 10,
            plugins=[LossScaling("cpu")],
        )

        assert clipped.last_step["train/grad_norm"] == pytest.approx(length, rel=0.01)
        assert float(clipped.gradients[0].norm()) == pytest.approx(length / 10, rel=0.01)
        cosine = nn.functional.cosine_similarity(clipped.gradients[0], free.gradients[0], dim=0)
        assert float(cosine) > 0.999

    def test_gradients_do_not_depend_on_gradient_checkpointing(self, tiny_runs: TinyRuns, rows: list[Any]) -> None:
        kept, again = (
            watched_fit(
                tiny_runs,
                batches_of(rows[:4], 4),
                steps=1,
                changes={"backbone__gradient_checkpointing": checkpointing},
                plugins=[LossScaling("cpu")],
            )
            for checkpointing in (False, True)
        )

        assert torch.equal(kept.gradients[0], again.gradients[0])

    def test_a_step_whose_gradients_overflow_changes_nothing(self, tiny_runs: TinyRuns, rows: list[Any]) -> None:
        class Overflowing(Watched):
            def __init__(self, *arguments: Any, **settings: Any) -> None:
                super().__init__(*arguments, **settings)
                self.seen: list[tuple[Tensor, float, int]] = []

            def training_step(self, batch: ModelInputs, batch_idx: int) -> Tensor:
                trained = torch.cat([one.detach().flatten() for one in self.method.trainable_parameters().values()])
                optimizer: Any = self.optimizers()
                self.seen.append((trained, optimizer.param_groups[0]["lr"], len(optimizer.state)))
                loss = super().training_step(batch, batch_idx)
                loss.register_hook(lambda gradient: gradient * (float("inf") if batch_idx in (0, 2) else 1.0))
                return loss

        plan, backbone = tiny_runs.attached()
        module = Overflowing(backbone, plan.method, plan.optimization, total_steps=4)
        scaling = LossScaling("cpu")

        fit(module, batches_of(rows[:16], 4), max_steps=4, plugins=[scaling])

        (start, lr, moments), (first, first_lr, no_moments), (second, second_lr, _), (third, third_lr, _) = module.seen
        assert (moments, no_moments) == (0, 0)
        assert torch.equal(start, first)
        assert torch.equal(second, third)
        assert not torch.equal(first, second)
        assert lr == first_lr < second_lr == third_lr  # warming up
        assert scaling.scale == 2.0**10 / 4
        assert "train/grad_norm" in module.last_step
        assert (module.global_step, scaling.skipped) == (4, False)

    def test_gradients_that_overflow_at_every_scale_end_the_run(self, tiny_runs: TinyRuns, rows: list[Any]) -> None:
        class Overflowing(AdaptationModule):
            def training_step(self, batch: ModelInputs, batch_idx: int) -> Tensor:
                loss = super().training_step(batch, batch_idx)
                loss.register_hook(lambda gradient: gradient * float("inf"))
                return loss

        plan, backbone = tiny_runs.attached()
        module = Overflowing(backbone, plan.method, plan.optimization, total_steps=40)

        with pytest.raises(NonFiniteLossError, match=r"in step 21 .* overflow at 0\.000488281"):
            fit(module, batches_of(rows[:4], 4), max_steps=40, plugins=[LossScaling("cpu")])

    def test_a_loss_that_is_not_finite_is_refused_all_the_same(self, tiny_runs: TinyRuns, rows: list[Any]) -> None:
        class Lost(AdaptationModule):
            def training_step(self, batch: ModelInputs, batch_idx: int) -> Tensor:
                loss = super().training_step(batch, batch_idx)
                self._window.add(torch.tensor(float("inf")), 0)
                return loss

        plan, backbone = tiny_runs.attached()
        module = Lost(backbone, plan.method, plan.optimization, total_steps=1)

        with pytest.raises(NonFiniteLossError, match="step 1 gave inf"):
            fit(module, batches_of(rows[:4], 4), max_steps=1, plugins=[LossScaling("cpu")])


def test_state_is_the_trained_parameters_alone(tiny_runs: TinyRuns) -> None:
    plan, backbone = tiny_runs.attached()
    module = AdaptationModule(backbone, plan.method, plan.optimization, total_steps=1)

    state = module.state_dict()

    assert state.keys() == plan.method.trainable_parameters().keys()
    assert sum(tensor.numel() for tensor in state.values()) == plan.method.num_trainable


def test_state_comes_back_bit_by_bit(tiny_runs: TinyRuns) -> None:
    plan, backbone = tiny_runs.attached()
    module = AdaptationModule(backbone, plan.method, plan.optimization, total_steps=1)
    state = {name: torch.randn_like(tensor) for name, tensor in module.state_dict().items()}

    module.load_state_dict(state)

    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("foreign", [{"method__prefix_length": 4}, {"method__reparam": "none"}])
def test_state_of_another_method_is_refused(tiny_runs: TinyRuns, foreign: dict[str, Any]) -> None:
    plan, backbone = tiny_runs.attached()
    other_plan, other_backbone = tiny_runs.attached(**foreign)
    other = AdaptationModule(other_backbone, other_plan.method, other_plan.optimization, total_steps=1)
    module = AdaptationModule(backbone, plan.method, plan.optimization, total_steps=1)

    with pytest.raises(
        RunError, match="trainable parameters of 'prefix_tuning' as configured, but their names or shapes differ"
    ):
        module.load_state_dict(other.state_dict())


@pytest.mark.parametrize(("base_mode", "drops"), [("eval", False), ("train", True)])
def test_the_mode_of_the_backbone_is_set_only_if_base_mode_is_train(
    tiny_runs: TinyRuns, base_mode: str, drops: bool
) -> None:
    plan, backbone = tiny_runs.attached(backbone__base_mode=base_mode)
    module = AdaptationModule(backbone, plan.method, plan.optimization, total_steps=1)

    assert (module.train().model.training, module.method.training) == (drops, True)
    assert (module.eval().model.training, module.method.training) == (False, False)


class Repeating(AdaptationModule):
    """Asks twice for the loss of each batch, and remembers whether the answers were the same."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.agrees: dict[str, list[bool]] = {"train": [], "validation": []}

    def training_step(self, batch: ModelInputs, batch_idx: int) -> Tensor:
        self.agrees["train"].append(self._ask_twice(batch))
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: ModelInputs, batch_idx: int) -> None:
        self.agrees["validation"].append(self._ask_twice(batch))
        super().validation_step(batch, batch_idx)

    @torch.no_grad()
    def _ask_twice(self, batch: ModelInputs) -> bool:
        first, second = (target_loss(self.backbone, self.method, batch).nats for _ in range(2))
        return bool(first == second)


@pytest.mark.parametrize(
    ("changes", "training_agrees"),
    [
        ({"backbone__base_mode": "train"}, False),
        ({"backbone__base_mode": "eval"}, True),
        ({"backbone__base_mode": "eval", "method__prefix_dropout": 0.5}, False),
    ],
    ids=["the backbone's own", "none", "the prefix's"],
)
def test_dropout_is_where_it_was_asked_for_and_never_in_validation(
    dropping_runs: TinyRuns, changes: dict[str, Any], training_agrees: bool
) -> None:
    plan, backbone = dropping_runs.attached(**changes)
    batches = batches_of(encoded_rows(plan, backbone)[:12], 4)
    module = Repeating(backbone, plan.method, plan.optimization, total_steps=3)

    fit(module, batches, max_steps=3, val_check_interval=1)

    # Three times each, so that a mode which is lost after a validation is seen.
    assert module.agrees == {"train": [training_agrees] * 3, "validation": [True] * 3}


class TestAMethodInsideTheModel:
    @pytest.fixture
    def module(self, tmp_path: Path) -> AdaptationModule:
        plan = TinyRuns(tmp_path, dropout=0.5).plan()
        backbone = plan.backbone.load()
        torch.manual_seed(0)
        method = LoRA(rank=2, dropout=0.5).attach(backbone)
        for parameter in method.trainable_parameters().values():
            nn.init.normal_(parameter)
        return AdaptationModule(backbone, method, plan.optimization, total_steps=1)

    def num_losses(self, module: AdaptationModule) -> int:
        batch = left_padded([[3, 4, 5, 6], [7, 8, 9]], 1)
        batch = batch.replace(labels=batch.input_ids)
        return len({float(target_loss(module.backbone, module.method, batch).nats.detach()) for _ in range(3)})

    def test_has_its_dropout_while_the_backbone_has_none(self, module: AdaptationModule) -> None:
        module.train()

        assert self.num_losses(module) == 3
        with torch.no_grad():
            for parameter in module.method.trainable_parameters().values():
                parameter.zero_()
        assert self.num_losses(module) == 1  # what is left is the backbone

    def test_has_none_in_eval_mode_and_under_a_mean_loss(self, module: AdaptationModule) -> None:
        module.train()
        batch = left_padded([[3, 4, 5, 6]], 1)
        batch = batch.replace(labels=batch.input_ids)

        means = {mean_loss(module.backbone, module.method, [batch]) for _ in range(3)}

        assert len(means) == 1
        assert self.num_losses(module) == 3  # as before
        assert self.num_losses(module.eval()) == 1
