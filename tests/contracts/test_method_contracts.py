"""What every method promises, on every tiny backbone.

Methods are found by their configs, backbones by `TINY_CONFIGS`: a new one of either kind is tested by being there, as
`support/contract_cases.py` says; every kind of method writes down its parameter count in `FORMULAS`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support import method_nodes
from support.contract_cases import METHODS, label
from support.no_task import export_untasked
from support.tiny_backbones import PAD
from support.toy_batches import (
    EQUAL,
    Side,
    packable_pairs,
    padded,
    text_logits,
    texts,
    train,
    training_batch,
    unpadded,
)
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import DynamicCache, EncoderDecoderCache

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.attention_sites import FAMILIES
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding, prompt_batch
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.data.collation import collate_training
from ptl_prefix.data.packing import collate_packed
from ptl_prefix.errors import BackboneError, RunError
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.combination import Combination
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.restore import load_bundle


@pytest.fixture(params=[pytest.param(method, id=label(*method)) for method in METHODS])
def new_method(request: pytest.FixtureRequest) -> Callable[[], Method]:
    """Makes the same method, afresh at every call."""
    name, variant = request.param

    def make() -> Method:
        torch.manual_seed(0)
        return method_nodes.new_method(name, **variant)

    return make


@pytest.fixture
def method(new_method: Callable[[], Method], backbone: Backbone) -> Method:
    """A method attached to the backbone, with a starting point that is always the same."""
    return new_method().attach(backbone)


@pytest.fixture
def trained(method: Method, backbone: Backbone) -> Method:
    """A method away from its starting point."""
    train(backbone, method, steps=2)
    return method.eval()


@pytest.fixture(params=["left", "right"])
def side(request: pytest.FixtureRequest) -> Side:
    """Where a batch's padding is."""
    which: Side = request.param
    return which


def test_every_family_has_a_tiny_backbone(tiny_folders: dict[str, Path]) -> None:
    assert sorted(tiny_folders) == sorted(FAMILIES)


def test_the_frozen_backbone_stays_bit_identical_while_a_method_trains(method: Method, backbone: Backbone) -> None:
    before = {name: tensor.clone() for name, tensor in _frozen(backbone, method).items()}

    train(backbone, method, steps=3)

    after = _frozen(backbone, method)
    assert sum(before[name].numel() for name, _ in backbone.model.named_parameters() if name in before) == (
        backbone.num_parameters
    )
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def _frozen(backbone: Backbone, method: Method) -> dict[str, Tensor]:
    """The backbone's own parameters and buffers: a method may have put some of its own among them."""
    trained = {id(parameter) for parameter in method.trainable_parameters().values()}
    return {
        name: tensor for name, tensor in backbone.model.state_dict(keep_vars=True).items() if id(tensor) not in trained
    }


def test_gradients_reach_the_trainable_parameters_and_nothing_else(method: Method, backbone: Backbone) -> None:
    trained = method.trainable_parameters()
    # A start at the bare backbone may be one where some of them have no gradient yet.
    train(backbone, method, steps=1)
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}

    target_loss(backbone, method, training_batch(backbone)).nats.backward()

    assert all(parameter.grad is not None and parameter.grad.any() for parameter in trained.values())
    assert all(tensor.grad is None for tensor in _frozen(backbone, method).values())
    train(backbone, method, steps=1)
    assert not any(torch.equal(trained[name], before[name]) for name in before)


def test_examples_in_one_row_and_targets_of_one_prompt_are_trained_on_as_if_each_were_alone(
    trained: Method, backbone: Backbone
) -> None:
    if backbone.is_encoder_decoder or trained.needs_one_text_per_row:
        pytest.skip("A row of it cannot hold several texts.")
    pairs = packable_pairs()
    plain = target_loss(backbone, trained, collate_training(pairs, Padding(PAD)))
    plain.nats.backward()
    wanted = {name: parameter.grad for name, parameter in trained.trainable_parameters().items()}
    trained.zero_grad()
    batch = collate_packed(pairs, pad_id=PAD, shares_sources=True)

    packed = target_loss(backbone, trained, batch)
    packed.nats.backward()

    assert packed.num_tokens == plain.num_tokens
    assert_close(packed.nats, plain.nats, rtol=1e-5, atol=1e-4)
    for name, parameter in trained.trainable_parameters().items():
        assert parameter.grad is not None
        assert_close(parameter.grad, wanted[name], rtol=1e-3, atol=1e-4)


def test_the_neutral_point_is_the_bare_backbone_at_the_same_positions(
    trained: Method, backbone: Backbone, side: Side
) -> None:
    method, inputs = trained, padded(texts(), side, backbone)
    conditioned = method.condition(inputs)
    adapted = text_logits(backbone, conditioned)

    method.neutralize()

    neutral = text_logits(backbone, method.condition(inputs))
    method.detach()
    bare = text_logits(backbone, inputs.replace(position_ids=conditioned.position_ids))
    assert all((row - bare_row).abs().max() > 1e-2 for row, bare_row in zip(adapted, bare, strict=True))
    assert_close(neutral, bare, **EQUAL)


def _prefix_tuning_counts(settings: Mapping[str, Any], backbone: Backbone) -> tuple[int, int]:
    trained = stored = 0
    p, h = settings["prefix_length"], settings["reparam_hidden_size"]
    e = settings["reparam_embedding_size"] or backbone.hidden_size
    for site in backbone.geometry.values():
        n = _selected(settings, site.num_layers)
        w = site.num_kv_heads * site.head_dim
        stored += 2 * n * p * w
        q, parts = p - settings["frozen_sink"], 1 + settings["train_keys"]
        trained += {
            "none": parts * n * q * w,
            "mlp": (q * e) + (e * h + h) + (h * parts * n * w + parts * n * w),  # rows, hidden layer, output layer
            "linear": n * e * (q + parts * w),
            "embedding": q * backbone.hidden_size,
        }[settings["reparam"]]
    return trained, stored


def _gated_prefix_counts(settings: Mapping[str, Any], backbone: Backbone) -> tuple[int, int]:
    count = 0
    for name, site in backbone.geometry.items():
        layers = _selected(settings, site.num_layers)
        count += layers * 2 * settings["prefix_length"] * site.kv_width
        count += layers * getattr(backbone.config, _NUM_HEADS.get((backbone.family, name), "num_attention_heads"))
    return count, count


def _prefix_plus_counts(settings: Mapping[str, Any], backbone: Backbone) -> tuple[int, int]:
    sites = backbone.geometry.values()
    count = sum(_selected(settings, site.num_layers) * site.kv_width * site.head_dim for site in sites)
    return count, count


def _selected(settings: Mapping[str, Any], num_layers: int) -> int:
    layers = settings["layers"]
    return num_layers if layers is None else sum(layer < num_layers for layer in layers)


def _prompt_tuning_counts(settings: Mapping[str, Any], backbone: Backbone) -> tuple[int, int]:
    width = getattr(backbone.config, "word_embed_proj_dim", None) or backbone.hidden_size
    return settings["prompt_length"] * width, settings["prompt_length"] * width


def _adapter_counts(settings: Mapping[str, Any], backbone: Backbone) -> tuple[int, int]:
    w, b = backbone.hidden_size, settings["bottleneck_size"]
    layers = {site: geometry.num_layers for site, geometry in backbone.geometry.items()}
    attention, feed_forward = sum(layers.values()), sum(n for site, n in layers.items() if site.endswith("self"))
    sublayers = feed_forward + (attention if settings["placement"] == "houlsby" else 0)
    numbers = sublayers * (w * b + b + b * w + w)  # down and its bias, up and its bias
    return numbers, numbers


def _lora_counts(settings: Mapping[str, Any], backbone: Backbone) -> tuple[int, int]:
    widths = _matrix_widths(backbone, ("query", "value"))
    count = sum(settings["rank"] * (width_in + width_out) for width_in, width_out in widths)
    count += settings["use_dora"] * sum(width_out for _, width_out in widths)
    return count, count


def _ia3_counts(settings: Mapping[str, Any], backbone: Backbone) -> tuple[int, int]:
    count = sum(width_out for _, width_out in _matrix_widths(backbone, ("key", "value")))
    count += sum(width_in for width_in, _ in _matrix_widths(backbone, ("narrowing",)))
    return count, count


def _matrix_widths(backbone: Backbone, roles: Sequence[str]) -> list[tuple[int, int]]:
    """(in, out) of each matrix in these roles, from the config; one that has several roles is there once."""
    config, widths = backbone.config, []
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    inner = inner or getattr(config, "encoder_ffn_dim", None) or getattr(config, "ffn_dim", None)
    inner = inner or getattr(config, "d_ff", None) or 4 * backbone.hidden_size
    for name, site in backbone.geometry.items():
        query_width = site.head_dim * getattr(config, _NUM_HEADS.get((backbone.family, name), "num_attention_heads"))
        outs = {"query": query_width, "key": site.kv_width, "value": site.kv_width}
        if backbone.family in ("gpt2", "gpt_neox"):
            outs = dict.fromkeys(outs, 3 * query_width)
            wanted = [outs["query"]] * bool(set(roles) & set(outs))
        else:
            wanted = [outs[role] for role in roles if role in outs]
        widths += [(backbone.hidden_size, out) for out in wanted] * site.num_layers
        if "narrowing" in roles and name != "decoder_cross":
            widths += [(inner, backbone.hidden_size)] * site.num_layers
    return widths


_NUM_HEADS = {
    (family, site): f"{site.partition('_')[0]}_attention_heads"
    for family in ("bart", "mbart")
    for site in ("encoder_self", "decoder_self", "decoder_cross")
}
"""What a family's config calls the heads of a site, where it is not `num_attention_heads`."""


def _full_finetuning_counts(settings: Mapping[str, Any], backbone: Backbone) -> tuple[int, int]:
    if settings["trained"] == "all":
        return backbone.num_parameters, backbone.num_parameters
    named = {name: parameter.numel() for name, parameter in backbone.model.named_parameters()}
    if settings["trained"] == "biases":
        count = sum(numbers for name, numbers in named.items() if name.rpartition(".")[2] == "bias")
        return count, count
    # A layer is known by its number, the last stack by its name; the norm behind it is as wide as the model.
    num_layers = list(backbone.geometry.values())[-1].num_layers
    top = {str(num_layers - 1 - index) for index in range(settings["num_top_layers"])}
    in_layers = {
        name: numbers for name, numbers in named.items() if next(filter(str.isdigit, name.split(".")), None) in top
    }
    count = sum(numbers for name, numbers in in_layers.items() if not name.startswith(("model.encoder.", "encoder.")))
    norm_width = {"gpt2": 2, "bart": 0, "mbart": 2, "opt": 2, "gpt_neox": 2}.get(backbone.family, 1)
    count += norm_width * backbone.hidden_size
    return count, count


def _combination_counts(settings: Mapping[str, Any], backbone: Backbone) -> tuple[int, int]:
    of_parts = [FORMULAS[part.kind](_settings_of(part), backbone) for part in settings["parts"].values()]
    return sum(trained for trained, _ in of_parts), sum(stored for _, stored in of_parts)


def _peft_counts(settings: Mapping[str, Any], backbone: Backbone) -> tuple[int, int]:
    if settings["peft_type"] == "ln_tuning":
        named = {name: parameter.numel() for name, parameter in backbone.model.named_parameters()}
        # Those of the backbone itself and their trained copies.
        count = sum(numbers for name, numbers in named.items() if "norm" in name or ".ln_" in name) // 2
        return count, count
    own = settings["settings"]
    of_matrix: Mapping[str, Callable[[int, int], int]] = {
        "lokr": lambda i, o: (_divisor(i) * _divisor(o)) + (i // _divisor(i)) * (o // _divisor(o)),
        "miss": lambda i, o: own["r"] * o,
        "oft": lambda i, o: (i // own["oft_block_size"]) * own["oft_block_size"] * (own["oft_block_size"] - 1) // 2,
        "randlora": lambda i, o: -(-min(i, o) // own["r"]) * (own["r"] + min(i, o)),
        "shira": lambda i, o: own["r"] * (i + o),
        "vera": lambda i, o: own["r"] + o,
    }
    widths = _matrix_widths(backbone, ("query", "value"))
    count = sum(of_matrix[settings["peft_type"]](width_in, width_out) for width_in, width_out in widths)
    return count, count


def _divisor(number: int) -> int:
    """The largest divisor that is at most the square root."""
    return max(divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0)


FORMULAS: Mapping[str, Callable[[Mapping[str, Any], Backbone], tuple[int, int]]] = {
    "adapter": _adapter_counts,
    "combination": _combination_counts,
    "full_finetuning": _full_finetuning_counts,
    "gated_prefix": _gated_prefix_counts,
    "ia3": _ia3_counts,
    "lora": _lora_counts,
    "prefix_plus": _prefix_plus_counts,
    "peft": _peft_counts,
    "prefix_tuning": _prefix_tuning_counts,
    "prompt_tuning": _prompt_tuning_counts,
}
"""(numbers trained, numbers stored) in closed form, by the method's kind."""


def test_the_number_of_parameters_equals_the_closed_form(method: Method, backbone: Backbone) -> None:
    assert method.kind in FORMULAS, f"Write down how many numbers '{method.kind}' trains and stores."

    assert (method.num_trainable, method.num_stored) == FORMULAS[method.kind](_settings_of(method), backbone)


def _settings_of(method: Method) -> dict[str, Any]:
    settings = {name: getattr(method, name) for name in vars(method) if not name.startswith("_")}
    return settings | {"parts": dict(method.parts.items())} if isinstance(method, Combination) else settings


def test_what_is_stored_is_what_is_exported(trained: Method) -> None:
    _, tensors = trained.export()

    assert sum(tensor.numel() for tensor in tensors.values()) == trained.num_stored
    assert not any(tensor.requires_grad for tensor in tensors.values())


def test_a_loaded_bundle_computes_what_was_exported(
    trained: Method, backbone: Backbone, side: Side, tmp_path: Path
) -> None:
    inputs = padded(texts(), side, backbone)
    before = text_logits(backbone, trained.condition(inputs))
    export_untasked(trained, backbone, tmp_path / "bundle")
    trained.detach()

    restored = load_bundle(tmp_path / "bundle", backbone).method

    assert_close(text_logits(backbone, restored.condition(inputs)), before, **EQUAL)


def test_a_row_does_not_depend_on_the_padding_of_its_batch(trained: Method, backbone: Backbone, side: Side) -> None:
    together = text_logits(backbone, trained.condition(padded(texts(), side, backbone)))

    alone = [text_logits(backbone, trained.condition(padded([text], side, backbone)))[0] for text in texts()]

    assert_close(together, alone, **EQUAL)


@pytest.mark.parametrize("is_padded", [True, False], ids=["padded", "unpadded"])
def test_cached_and_uncached_steps_have_the_same_logits(trained: Method, backbone: Backbone, is_padded: bool) -> None:
    padding = Padding(PAD, backbone.prompter(PromptFormat()).decoder_start_ids)
    inputs = prompt_batch(texts(), padding) if is_padded else unpadded(backbone=backbone)

    cached, written = _cached_step_logits(backbone, trained.condition(inputs))

    conditioned = trained.condition(inputs)
    first = written.shape[1] - cached.shape[1]
    with torch.no_grad():
        # Each step anew over all that was written until then, and once over everything.
        steps = [backbone.logits(_continued(conditioned, written[:, : first + step]))[:, -1] for step in range(5)]
        whole = backbone.logits(_continued(conditioned, written))
    assert_close(cached, torch.stack(steps, dim=1), **EQUAL)
    assert_close(cached, whole[:, first - 1 : -1], **EQUAL)


def _continued(inputs: ModelInputs, written: Tensor) -> ModelInputs:
    """Conditioned inputs with what was written after them."""
    if inputs.decoder_input_ids is not None:
        return inputs.replace(decoder_input_ids=written, decoder_attention_mask=torch.ones_like(written))
    assert inputs.position_ids is not None
    num_new = written.shape[1] - inputs.input_ids.shape[1]
    new_text = torch.ones(len(written), num_new, dtype=torch.long)
    positions = inputs.position_ids[:, -1:] + torch.arange(1, num_new + 1)
    return ModelInputs(
        written,
        torch.cat([inputs.attention_mask, new_text], dim=1),
        position_ids=torch.cat([inputs.position_ids, positions], dim=1),
    )


@torch.no_grad()
def _cached_step_logits(backbone: Backbone, inputs: ModelInputs) -> tuple[Tensor, Tensor]:
    """The logits of five steps of decoding, (batch, steps, vocabulary), and the ids of prompt and text."""
    model: Any = backbone.model
    start: dict[str, Any] = {"position_ids": inputs.position_ids, "decoder_input_ids": inputs.decoder_input_ids}
    if backbone.is_encoder_decoder:
        # Its own would have as many layers as the encoder, which is shallower here.
        start["past_key_values"] = EncoderDecoderCache(DynamicCache(), DynamicCache())
    output = model.generate(
        **backbone.input_arguments(inputs),
        **{name: value for name, value in start.items() if value is not None},
        use_cache=True,
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=backbone.pad_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(output.logits, dim=1), output.sequences


def test_detaching_restores_the_model(new_method: Callable[[], Method], backbone: Backbone) -> None:
    inputs = padded(texts(), "left", backbone)
    bare, before = text_logits(backbone, inputs), _surface(backbone.model)
    method = new_method().attach(backbone)
    train(backbone, method, steps=1)

    method.detach()

    assert _surface(backbone.model) == before
    assert all(torch.equal(a, b) for a, b in zip(text_logits(backbone, inputs), bare, strict=True))


def _surface(model: nn.Module) -> dict[str, Any]:
    """All that a method could leave behind: a module's class, its attributes, its hooks, and the attention in use."""
    surface: dict[str, Any] = {
        name: (type(module), module.training, sorted(vars(module)), module.forward.__qualname__, _num_hooks(module))
        for name, module in model.named_modules()
    }
    surface["attention"] = model.config._attn_implementation  # type: ignore[union-attr]
    surface["trainable"] = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return surface


def _num_hooks(module: nn.Module) -> int:
    return sum(len(hooks) for name, hooks in vars(module).items() if name.endswith("_hooks"))


def test_it_trains(method: Method, backbone: Backbone) -> None:
    losses = train(backbone, method, steps=30, lr=3e-2)

    assert losses[-1] < losses[0] - 0.2


def test_attaching_twice_is_refused(method: Method, backbone: Backbone) -> None:
    with pytest.raises(BackboneError, match="attached to one backbone at a time"):
        method.attach(backbone)


def test_using_a_method_before_it_is_attached_is_refused(new_method: Callable[[], Method]) -> None:
    with pytest.raises(BackboneError, match="must be attached before it is used"):
        new_method().condition(unpadded())


def test_the_trained_state_survives_being_detached(trained: Method, backbone: Backbone) -> None:
    inputs = unpadded(backbone=backbone)
    before = text_logits(backbone, trained.condition(inputs))

    trained.detach()
    trained.attach(backbone)

    assert_close(text_logits(backbone, trained.condition(inputs)), before, rtol=0, atol=0)


def test_a_trained_state_moves_to_a_method_of_the_same_settings_and_to_no_other(
    trained: Method, new_method: Callable[[], Method], backbone: Backbone, new_backbone: Callable[[str], Backbone]
) -> None:
    state = {name: tensor.detach().clone() for name, tensor in trained.checkpoint_tensors().items()}
    twin_backbone = new_backbone(backbone.family)
    twin = new_method().attach(twin_backbone)

    twin.load_trainable_parameters(state)

    logits = text_logits(twin_backbone, twin.eval().condition(unpadded(backbone=backbone)))
    assert_close(logits, text_logits(backbone, trained.condition(unpadded(backbone=backbone))), rtol=0, atol=0)
    name, numbers = state.popitem()
    for foreign in (state, {**state, name: numbers[None]}, {**state, "another": numbers}):
        with pytest.raises(RunError, match="must have the trainable parameters"):
            twin.load_trainable_parameters(foreign)


def test_the_same_seed_gives_the_same_start(
    new_method: Callable[[], Method], backbone: Backbone, new_backbone: Callable[[str], Backbone]
) -> None:
    twin = new_backbone(backbone.family)
    _, first = new_method().attach(backbone).export()

    _, second = new_method().attach(twin).export()

    assert_close(first, second, rtol=0, atol=0)


def test_gradient_checkpointing_changes_no_gradient(
    new_method: Callable[[], Method], backbone: Backbone, tiny_folders: dict[str, Path]
) -> None:
    plain = _gradients(new_method(), backbone)
    checkpointed = load_backbone(str(tiny_folders[backbone.family]), dtype="float32", gradient_checkpointing=True)

    again = _gradients(new_method(), checkpointed)

    assert plain.keys() == again.keys()
    assert any(gradient.any() for gradient in plain.values())
    assert_close(again, plain, **EQUAL)


def _gradients(method: Method, backbone: Backbone) -> dict[str, Tensor]:
    """Those of one batch, away from the start, where some of them are zero; without dropout."""
    method.attach(backbone).eval()
    train(backbone, method, steps=1)
    target_loss(backbone, method, training_batch(backbone)).nats.backward()
    gradients = {name: parameter.grad for name, parameter in method.trainable_parameters().items()}
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}


def test_a_bfloat16_backbone_trains_float32_parameters_and_stays_unchanged(
    new_method: Callable[[], Method], backbone: Backbone, tiny_folders: dict[str, Path]
) -> None:
    halved = load_backbone(str(tiny_folders[backbone.family]), dtype="bfloat16")
    method = new_method().attach(halved)
    before = {name: tensor.clone() for name, tensor in _frozen(halved, method).items()}

    losses = train(halved, method, steps=20, lr=3e-2)

    assert losses[-1] < losses[0] - 0.1
    assert {parameter.dtype for parameter in method.trainable_parameters().values()} == {torch.float32}
    assert {parameter.grad is None for parameter in method.trainable_parameters().values()} == {True}
    after = _frozen(halved, method)
    assert all(torch.equal(after[name], before[name]) for name in before)
    _, tensors = method.export()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
