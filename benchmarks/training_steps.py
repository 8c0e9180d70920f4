"""The training steps that are timed: full fine-tuning, PEFT's prefix and ours, over random weights.

In: a `Setting`. Out: for each contender a function that takes one step: forward, backward, AdamW.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.peft_prefix import PeftPrefix
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs
from ptl_prefix.backbones.spec import EMBEDDED
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.method import Method, NoAdaptation
from ptl_prefix.methods.prefix_tuning import PrefixTuning

Step = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """What every contender is measured on.

    Args:
        shape: A key of `SHAPES`.
        device: Where the model is.
        dtype: What the model computes in; trained prefixes are float32.
        batch_size: Rows.
        source_tokens: Tokens of a row that are not trained on.
        target_tokens: Tokens that are; rows are padded by up to 30% of their length.
        prefix_length: Extra positions per layer.
        hidden_size: Width of the MLP, on both sides.
    """

    shape: str
    device: str
    dtype: str
    batch_size: int
    source_tokens: int
    target_tokens: int
    prefix_length: int
    hidden_size: int


SHAPES: Mapping[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2_medium": {"vocab_size": 50257, "n_positions": 1024, "n_embd": 1024, "n_layer": 24, "n_head": 16},
    "tiny": {"vocab_size": 8192, "n_positions": 512, "n_embd": 256, "n_layer": 4, "n_head": 4},
}


@dataclass(frozen=True)
class Contender:
    """One way to train.

    Args:
        label: What the table calls it.
        build: Makes a step, weights, optimizer and batch included.
        rival: The contender that trains the same parameters with PEFT, as PEFT does it.
    """

    label: str
    build: Callable[[Setting], Step]
    rival: str | None = None


def random_backbone(shape: str, *, device: str, dtype: str) -> Backbone:
    """A GPT-2 of some shape with random weights: no time depends on them."""
    torch.manual_seed(0)
    rest: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    config = GPT2Config(**SHAPES[shape], **rest, bos_token_id=0, eos_token_id=0)
    model: Any = GPT2LMHeadModel(config)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(EMBEDDED / "tiny_gpt2")  # never asked for anything
    return Backbone(
        model=model.to(torch.device(device), getattr(torch, dtype)),
        tokenizer=tokenizer,
        name=shape,
        path=shape,
        base_mode="eval",
        fingerprints=None,
    )


def _batch(setting: Setting) -> ModelInputs:
    """Random ids; the first row is full, the others are padded on the right."""
    generator = torch.Generator().manual_seed(1)
    length = setting.source_tokens + setting.target_tokens
    shape = (setting.batch_size, length)
    ids = torch.randint(SHAPES[setting.shape]["vocab_size"], shape, generator=generator)
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


def _step(parameters: list[nn.Parameter], loss: Callable[[], Tensor], batch: ModelInputs) -> Step:
    optimizer = torch.optim.AdamW(parameters, 1e-4)
    is_cuda = batch.input_ids.is_cuda

    def step() -> None:
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if is_cuda:
            torch.cuda.synchronize()

    return step


def full_fine_tuning(setting: Setting) -> Step:
    """Every parameter trained, in the backbone's dtype; logits everywhere, as transformers computes them."""
    backbone = random_backbone(setting.shape, device=setting.device, dtype=setting.dtype)
    parameters = list(backbone.model.requires_grad_(True).parameters())
    bare = NoAdaptation().attach(backbone)
    batch = _batch(setting)
    return _step(parameters, lambda: _loss_everywhere(backbone, bare, batch), batch)


def ours(reparam: str, *, everywhere: bool = False) -> Callable[[Setting], Step]:
    """Our prefix; `everywhere` computes logits at all positions, to tell what targets alone save."""
    loss_of = _loss_everywhere if everywhere else _loss_at_targets

    def build(setting: Setting) -> Step:
        backbone = random_backbone(setting.shape, device=setting.device, dtype=setting.dtype)
        method = PrefixTuning(
            prefix_length=setting.prefix_length, reparam=reparam, reparam_hidden_size=setting.hidden_size
        ).attach(backbone)
        batch = _batch(setting)
        return _step(list(method.trained_parameters().values()), lambda: loss_of(backbone, method, batch), batch)

    return build


def peft(*, projection: bool, at_targets: bool = False) -> Callable[[Setting], Step]:
    """PEFT's prefix; `at_targets` lends it our head, which it has not got by itself."""
    loss_of = _loss_at_targets if at_targets else _loss_everywhere

    def build(setting: Setting) -> Step:
        backbone = PeftPrefix(
            random_backbone(setting.shape, device=setting.device, dtype=setting.dtype),
            prefix_length=setting.prefix_length,
            hidden_size=setting.hidden_size if projection else None,
            head_at_targets_only=at_targets,
        )
        bare = NoAdaptation().attach(backbone)
        batch = _batch(setting)
        return _step(list(backbone.trained_parameters().values()), lambda: loss_of(backbone, bare, batch), batch)

    return build


CONTENDERS: Mapping[str, Contender] = {
    "full": Contender("full fine-tuning", full_fine_tuning),
    "peft": Contender("PEFT prefix", peft(projection=False)),
    "peft_targets": Contender("PEFT prefix, logits at targets", peft(projection=False, at_targets=True), "peft"),
    "ours_everywhere": Contender("ours, logits everywhere", ours("none", everywhere=True), "peft"),
    "ours": Contender("ours", ours("none"), "peft"),
    "peft_mlp": Contender("PEFT prefix with projection", peft(projection=True)),
    "peft_mlp_targets": Contender(
        "PEFT with projection, logits at targets", peft(projection=True, at_targets=True), "peft_mlp"
    ),
    "ours_mlp_everywhere": Contender("ours with MLP, logits everywhere", ours("mlp", everywhere=True), "peft_mlp"),
    "ours_mlp": Contender("ours with MLP", ours("mlp"), "peft_mlp"),
}
