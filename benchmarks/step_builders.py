"""The measured training steps: full fine-tuning, PEFT's prefix-tuning and LoRA, and ours, with random weights.

In: a `Setting`. Out: for each contender a `Training`, whose step is forward, backward, AdamW. `check_comparable` checks
that all contenders see the same batch and train as many parameters as their counterparts.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.peft_configs import lora_config
from benchmarks.peft_prefix import PeftPrefix, wrapped
from benchmarks.shapes import SHAPES, dtype_for, random_backbone
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.full_finetuning import FullFinetuning
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.no_adaptation import NoAdaptation
from ptl_prefix.methods.prefix_tuning import PrefixTuning


@dataclass(frozen=True)
class Setting:
    """The setting in which every contender is measured.

    Args:
        shape: A key of `SHAPES`.
        device: Device of the model.
        dtype: Dtype of the model; prefixes and low-rank updates are float32.
        batch_size: Rows per batch.
        source_tokens: Tokens per row without a loss.
        target_tokens: Tokens per row with a loss; rows are padded by up to 30% of their length.
        prefix_length: Extra positions per layer.
        hidden_size: Hidden size of the MLP, here and in PEFT.
        rank: Rank of LoRA, here and in PEFT.
    """

    shape: str
    device: str
    dtype: str
    batch_size: int
    source_tokens: int
    target_tokens: int
    prefix_length: int
    hidden_size: int
    rank: int


def add_setting(parser: argparse.ArgumentParser, *, shape: str, batch_size: int) -> None:
    """Add the arguments of a step of a plain prefix on a CPU, with these defaults."""
    parser.add_argument("--shape", choices=tuple(SHAPES), default=shape)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--batch-size", type=int, default=batch_size, help="rows of a training batch")
    parser.add_argument("--source-tokens", type=int, default=32)
    parser.add_argument("--target-tokens", type=int, default=32)
    parser.add_argument("--prefix-length", type=int, default=10)


def setting_of(arguments: argparse.Namespace) -> Setting:
    """The setting of the arguments of `add_setting`."""
    return Setting(
        shape=arguments.shape,
        device="cpu",
        dtype=dtype_for(arguments.dtype),
        batch_size=arguments.batch_size,
        source_tokens=arguments.source_tokens,
        target_tokens=arguments.target_tokens,
        prefix_length=arguments.prefix_length,
        hidden_size=0,
        rank=0,
    )


@dataclass(frozen=True)
class Training:
    """A contender that is ready to train.

    Args:
        step: Takes one optimizer step, and returns the loss before it in nats per target token.
        num_trained: Number of trainable parameters.
        batch: The batch of every step.
    """

    step: Callable[[], float]
    num_trained: int
    batch: ModelInputs


@dataclass(frozen=True)
class Contender:
    """One way to train.

    Args:
        label: Name in the table.
        build: Creates weights, optimizer and batch.
        rival: Name of PEFT's contender that trains the same parameters; `None` if there is none.
    """

    label: str
    build: Callable[[Setting], Training]
    rival: str | None = None


def check_comparable(trainings: Mapping[str, Training]) -> None:
    """Check that contenders are comparable.

    Raises:
        RuntimeError: Two contenders see different batches, or a contender and its rival train different numbers of
            parameters.
    """
    first = next(iter(trainings.values())).batch
    for name, training in trainings.items():
        batch = training.batch
        pairs = ((batch.input_ids, first.input_ids), (batch.attention_mask, first.attention_mask))
        has_same_labels = (
            batch.labels is not None and first.labels is not None and torch.equal(batch.labels, first.labels)
        )
        if not has_same_labels or not all(torch.equal(own, other) for own, other in pairs):
            raise RuntimeError(f"All contenders must see the same batch, but '{name}' sees a different one.")
        rival = trainings.get(CONTENDERS[name].rival or "")
        if rival is not None and rival.num_trained != training.num_trained:
            raise RuntimeError(
                f"A contender must train as many parameters as its rival, but '{name}' trains {training.num_trained:,} "
                f"and '{CONTENDERS[name].rival}' {rival.num_trained:,}."
            )


def random_batch(setting: Setting, backbone: Backbone) -> ModelInputs:
    """Random ids; the first row has full length, the others are padded on the right."""
    generator = torch.Generator().manual_seed(1)
    length = setting.source_tokens + setting.target_tokens
    ids = torch.randint(backbone.config.vocab_size, (setting.batch_size, length), generator=generator)
    lengths = torch.randint(int(0.7 * length), length + 1, (setting.batch_size, 1), generator=generator)
    lengths[0] = length
    positions = torch.arange(length)[None]
    is_target = (positions >= setting.source_tokens) & (positions < lengths)
    labels = ids.masked_fill(~is_target, IGNORED_LABEL)
    return ModelInputs(ids, (positions < lengths).long(), labels).to(setting.device)


def _loss_at_targets(backbone: Backbone, method: Method, batch: ModelInputs) -> Tensor:
    loss = target_loss(backbone, method, batch)
    return loss.nats / loss.num_tokens


def _loss_everywhere(backbone: Backbone, method: Method, batch: ModelInputs) -> Tensor:
    """The loss as transformers computes it from labels: float32 logits at every position."""
    assert batch.labels is not None
    logits = backbone.logits(method.condition(batch)).float()
    next_labels = nn.functional.pad(batch.labels[:, 1:], (0, 1), value=IGNORED_LABEL)
    return nn.functional.cross_entropy(logits.flatten(0, 1), next_labels.flatten(), ignore_index=IGNORED_LABEL)


def _training(
    setting: Setting,
    backbone: Backbone,
    parameters: Iterable[nn.Parameter],
    *,
    method: Method | None = None,
    everywhere: bool = False,
) -> Training:
    """Train some parameters with AdamW; `method=None` means that they are in the backbone already."""
    trained = list(parameters)
    method = method or NoAdaptation().attach(backbone)
    batch = random_batch(setting, backbone)
    optimizer = torch.optim.AdamW(trained, 1e-4)
    loss_of = _loss_everywhere if everywhere else _loss_at_targets

    def step() -> float:
        loss = loss_of(backbone, method, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if batch.input_ids.is_cuda:
            torch.cuda.synchronize(batch.input_ids.device)
        return float(loss.detach())

    return Training(step, sum(parameter.numel() for parameter in trained), batch)


def _backbone(setting: Setting, *, is_own: bool = False) -> Backbone:
    return random_backbone(setting.shape, device=setting.device, dtype=setting.dtype, is_own=is_own)


def full_fine_tuning(setting: Setting) -> Training:
    """Train every parameter in the backbone's dtype, with logits at every position, as transformers does."""
    backbone = _backbone(setting, is_own=True)
    return _training(setting, backbone, backbone.model.requires_grad_(True).parameters(), everywhere=True)


def our_method(
    make: Callable[[Setting, Backbone], Method], *, everywhere: bool = False
) -> Callable[[Setting], Training]:
    """Train one of our methods; `everywhere` computes logits at all positions, to measure what target logits save."""

    def build(setting: Setting) -> Training:
        backbone = _backbone(setting)
        method = make(setting, backbone).attach(backbone)
        parameters = method.trainable_parameters().values()
        return _training(setting, backbone, parameters, method=method, everywhere=everywhere)

    return build


def _prefix(reparam: str) -> Callable[[Setting, Backbone], Method]:
    # PEFT's embedding has the width of a layer's keys. Ours would by default have the model's width, which is larger
    # with grouped-query attention.
    return lambda setting, backbone: PrefixTuning(
        prefix_length=setting.prefix_length,
        reparam=reparam,
        reparam_hidden_size=setting.hidden_size,
        reparam_embedding_size=backbone.geometry["decoder_self"].kv_width,
    )


def _lora(setting: Setting, _: Backbone) -> Method:
    return LoRA(rank=setting.rank, dropout=0.0)


def peft_prefix(*, projection: bool, at_targets: bool = False) -> Callable[[Setting], Training]:
    """PEFT's prefix-tuning; `at_targets` computes logits only at targets, for which PEFT has no option."""

    def build(setting: Setting) -> Training:
        backbone = PeftPrefix(
            _backbone(setting),
            prefix_length=setting.prefix_length,
            hidden_size=setting.hidden_size if projection else None,
            head_at_targets_only=at_targets,
        )
        return _training(setting, backbone, backbone.trainable_parameters().values(), everywhere=not at_targets)

    return build


def peft_lora(setting: Setting) -> Training:
    """PEFT's LoRA of queries and values, which PEFT injects into the model."""
    backbone = _backbone(setting)
    wrapped(backbone.model, lora_config(backbone, rank=setting.rank))
    trained = [parameter for parameter in backbone.model.parameters() if parameter.requires_grad]
    return _training(setting, backbone, trained, everywhere=True)


CONTENDERS: Mapping[str, Contender] = {
    "full": Contender("full fine-tuning", full_fine_tuning),
    "ours_full": Contender("full fine-tuning, ours: float32 copies", our_method(lambda *_: FullFinetuning())),
    "peft": Contender("PEFT prefix", peft_prefix(projection=False)),
    "peft_targets": Contender("PEFT prefix, logits at targets", peft_prefix(projection=False, at_targets=True), "peft"),
    "ours_everywhere": Contender("ours, logits everywhere", our_method(_prefix("none"), everywhere=True), "peft"),
    "ours": Contender("ours", our_method(_prefix("none")), "peft"),
    "peft_mlp": Contender("PEFT prefix with projection", peft_prefix(projection=True)),
    "peft_mlp_targets": Contender(
        "PEFT with projection, logits at targets", peft_prefix(projection=True, at_targets=True), "peft_mlp"
    ),
    "ours_mlp_everywhere": Contender(
        "ours with MLP, logits everywhere", our_method(_prefix("mlp"), everywhere=True), "peft_mlp"
    ),
    "ours_mlp": Contender("ours with MLP", our_method(_prefix("mlp")), "peft_mlp"),
    "peft_lora": Contender("PEFT LoRA", peft_lora),
    "ours_lora": Contender("ours, LoRA", our_method(_lora), "peft_lora"),
}
