"""The training steps that are measured: full fine-tuning, PEFT's prefix and LoRA, and ours, over random weights.

In: a `Setting`. Out: for each contender a `Training`, whose step is forward, backward, AdamW. `check_alike` says
whether all are about the same.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from peft import LoraConfig
from torch import Tensor, nn

from benchmarks.peft_prefix import PeftPrefix, wrapped
from benchmarks.shapes import random_backbone
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.linear_sites import LINEAR_NAMES
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.full_finetuning import FullFinetuning
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.no_adaptation import NoAdaptation
from ptl_prefix.methods.prefix_tuning import PrefixTuning


@dataclass(frozen=True)
class Setting:
    """What every contender is measured on.

    Args:
        shape: A key of `SHAPES`.
        device: Where the model is.
        dtype: What the model computes in; trained prefixes and changes of low rank are float32.
        batch_size: Rows.
        source_tokens: Tokens of a row that are not trained on.
        target_tokens: Tokens that are; rows are padded by up to 30% of their length.
        prefix_length: Extra positions per layer.
        hidden_size: Width of the MLP, on both sides.
        rank: Of LoRA, on both sides.
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


@dataclass(frozen=True)
class Training:
    """A contender that is ready.

    Args:
        step: Takes one step, and gives the loss from before it, in nats per target token.
        num_trained: Numbers that it changes.
        batch: What it sees, in every step.
    """

    step: Callable[[], float]
    num_trained: int
    batch: ModelInputs


@dataclass(frozen=True)
class Contender:
    """One way to train.

    Args:
        label: What the table calls it.
        build: Makes weights, optimizer and batch.
        rival: The contender that trains the same parameters with PEFT, as PEFT does it.
    """

    label: str
    build: Callable[[Setting], Training]
    rival: str | None = None


def check_alike(trainings: Mapping[str, Training]) -> None:
    """Refuse to compare what is not the same work.

    Raises:
        RuntimeError: When two see different batches, or a contender and its rival train different numbers of numbers.
    """
    first = next(iter(trainings.values())).batch
    for name, training in trainings.items():
        batch = training.batch
        pairs = ((batch.input_ids, first.input_ids), (batch.attention_mask, first.attention_mask))
        labels = batch.labels is not None and first.labels is not None and torch.equal(batch.labels, first.labels)
        if not labels or not all(torch.equal(own, other) for own, other in pairs):
            raise RuntimeError(f"All contenders must see the same batch, but that of '{name}' is another.")
        rival = trainings.get(CONTENDERS[name].rival or "")
        if rival is not None and rival.num_trained != training.num_trained:
            raise RuntimeError(
                f"A contender must train as many numbers as its rival, but '{name}' trains {training.num_trained:,} "
                f"and '{CONTENDERS[name].rival}' {rival.num_trained:,}."
            )


def _batch(setting: Setting, backbone: Backbone) -> ModelInputs:
    """Random ids; the first row is full, the others are padded on the right."""
    generator = torch.Generator().manual_seed(1)
    length = setting.source_tokens + setting.target_tokens
    ids = torch.randint(backbone.config.vocab_size, (setting.batch_size, length), generator=generator)
    lengths = torch.randint(int(0.7 * length), length + 1, (setting.batch_size, 1), generator=generator)
    lengths[0] = length
    places = torch.arange(length)[None]
    is_target = (places >= setting.source_tokens) & (places < lengths)
    labels = ids.masked_fill(~is_target, IGNORED_LABEL)
    return ModelInputs(ids, (places < lengths).long(), labels).to(setting.device)


def _loss_at_targets(backbone: Backbone, method: Method, batch: ModelInputs) -> Tensor:
    loss = target_loss(backbone, method, batch)
    return loss.nats / loss.num_tokens


def _loss_everywhere(backbone: Backbone, method: Method, batch: ModelInputs) -> Tensor:
    """As transformers computes a loss from labels: every position's logits, in float32."""
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
    """AdamW on some parameters; without a method of ours, what is trained is in the backbone already."""
    trained = list(parameters)
    method = method or NoAdaptation().attach(backbone)
    batch = _batch(setting, backbone)
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
    """Every parameter trained, in the backbone's dtype; logits everywhere, as transformers computes them."""
    backbone = _backbone(setting, is_own=True)
    return _training(setting, backbone, backbone.model.requires_grad_(True).parameters(), everywhere=True)


def our_method(
    make: Callable[[Setting, Backbone], Method], *, everywhere: bool = False
) -> Callable[[Setting], Training]:
    """A method of ours; `everywhere` computes logits at all positions, to tell what targets alone save."""

    def build(setting: Setting) -> Training:
        backbone = _backbone(setting)
        method = make(setting, backbone).attach(backbone)
        parameters = method.trainable_parameters().values()
        return _training(setting, backbone, parameters, method=method, everywhere=everywhere)

    return build


def _prefix(reparam: str) -> Callable[[Setting, Backbone], Method]:
    # The rows that PEFT's projection reads are as wide as a layer's keys, which with grouped queries are narrower than
    # the model, whose width ours would have.
    return lambda setting, backbone: PrefixTuning(
        prefix_length=setting.prefix_length,
        reparam=reparam,
        reparam_hidden_size=setting.hidden_size,
        reparam_embedding_size=backbone.geometry["decoder_self"].kv_width,
    )


def _lora(setting: Setting, _: Backbone) -> Method:
    return LoRA(rank=setting.rank, dropout=0.0)


def peft_prefix(*, projection: bool, at_targets: bool = False) -> Callable[[Setting], Training]:
    """PEFT's prefix; `at_targets` lends it our head, which it has not got by itself."""

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
    """PEFT's LoRA of queries and values, which it puts into the model itself."""
    backbone = _backbone(setting)
    names = LINEAR_NAMES[backbone.family]
    config = LoraConfig(
        r=setting.rank,
        lora_dropout=0.0,
        target_modules=sorted({names.query, names.value}),
        fan_in_fan_out=backbone.family == "gpt2",
    )
    wrapped(backbone.model, config)
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
