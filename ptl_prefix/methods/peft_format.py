"""Methods as adapters of PEFT, and back.

In: a trained method, or an adapter that PEFT saved. Out: the adapter that `PeftModel.from_pretrained` opens, or the
method on its backbone; both compute the same logits. PEFT stores a prefix as it acts, without the network that trained
it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from peft import CartridgeConfig, IA3Config, LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig
from torch import Tensor

from ptl_prefix.artifacts.peft_folder import CONFIG_FILE, PeftAdapter
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.linear_sites import linear_sites
from ptl_prefix.backbones.prefix_cache import has_attention_windows
from ptl_prefix.errors import BundleError
from ptl_prefix.methods.ia3 import IA3
from ptl_prefix.methods.injected_layers import InjectedLayers
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.peft import PeftTuner
from ptl_prefix.methods.peft_tuner_format import (
    EXCHANGED,
    check_projections,
    defaults_of_tuner,
    own_tensors,
    path_in,
    tuner_as_peft,
    tuner_from_peft,
)
from ptl_prefix.methods.peft_tuners import offered_settings
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.methods.prompt_tuning import PromptTuning

_SITE = "decoder_self"
_ROWS = "prompt_embeddings"
"""PEFT's name of a prefix or prompt, one row a position."""
_ROOT = "base_model.model."
"""What PEFT puts before the path of a module."""
_BOOKKEEPING = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "encoder_hidden_size",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "init_ia3_weights",
    "init_weights",
    "lora_dropout",
    "lora_ga_config",
    "loftq_config",
    "megatron_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "prefix_projection",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "save_projection",
    "task_type",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
}
"""Settings of PEFT that say how an adapter was trained or is stored, not what it computes."""


def to_peft(method: Method) -> PeftAdapter:
    """A method as a PEFT adapter of the same logits.

    Args:
        method: Method, attached to its backbone.

    Raises:
        ValueError: When PEFT cannot express the method; the message has the reason.
    """
    backbone = method.backbone
    writer = _WRITERS.get(type(method))
    if writer is None:
        raise ValueError(
            f"PEFT must have a counterpart of a method to export it, but has none of '{method.kind}'"
            f"{_NEARLY.get(method.kind, '')}; export a bundle."
        )
    config, tensors = writer(method, backbone)
    config.base_model_name_or_path = backbone.identity.path
    config.inference_mode = True
    config.task_type = "SEQ_2_SEQ_LM" if backbone.is_encoder_decoder else "CAUSAL_LM"
    values = json.loads(json.dumps(config.to_dict(), default=sorted))  # its sets of names and its enumerations as JSON
    return PeftAdapter(values, {name: tensor.contiguous() for name, tensor in tensors.items()})


def from_peft(adapter: PeftAdapter, backbone: Backbone) -> Method:
    """The method of an adapter, attached to a backbone.

    Raises:
        BundleError: When the adapter is of another kind or backbone, or has settings that change its outputs and that
            no method here has.
    """
    kind = str(adapter.config.get("peft_type"))
    if kind not in _READERS:
        raise BundleError(
            f"An adapter of PEFT must be one of {', '.join(_READERS)}, but `peft_type` in its {CONFIG_FILE} is "
            f"{kind!r:.40}."
        )
    config_class, understood, reader = _READERS[kind]
    if problem := _unread_setting(adapter.config, config_class, understood):
        raise BundleError(problem)
    try:
        return reader(adapter, backbone).eval()
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(
            f"An adapter of PEFT must have the settings and tensors of a {kind} for {backbone.name}, but: {error}"
        ) from error


def _unread_setting(
    config: Mapping[str, Any], config_class: Callable[[], PeftConfig], understood: frozenset[str]
) -> str | None:
    """The first setting that may change what an adapter computes, and that is not understood; as a sentence."""
    defaults = config_class().to_dict()
    for key, value in sorted(config.items()):
        default = defaults.get(key)
        is_default = value == default or not (value or default)
        # Other initialisations, such as PiSSA's, change the backbone's weights, too.
        is_plain_start = key == "init_lora_weights" and value in (False, "gaussian", "eva")
        if key not in understood | _BOOKKEEPING and not is_default and not is_plain_start:
            return (
                f"An adapter of PEFT must have no setting without a counterpart here, but `{key}` in its {CONFIG_FILE} "
                f"is {value!r:.80}; merge it into the model with PEFT, and use the model as a backbone."
            )
    return None


def _written_prefix(method: Any, backbone: Backbone) -> tuple[PeftConfig, dict[str, Tensor]]:
    """A prefix: CARTRIDGE if some rows were frozen, else PREFIX_TUNING."""
    settings, tensors = method.export()
    _refuse_windows(backbone)
    if backbone.is_encoder_decoder or settings["sites"] != [_SITE]:
        raise ValueError(
            "PEFT puts a prefix into the decoder's own attention alone, but this one also has "
            f"{', '.join(settings['sites'])} of an encoder-decoder; export a bundle."
        )
    if settings["layers"] is not None:
        raise ValueError(
            f"PEFT puts a prefix into all layers, but `method.layers` is {settings['layers']}; export a bundle."
        )
    if method.position_law != "shifted":
        raise ValueError(
            f"PEFT shifts the text's positions by the prefix, but `method.position_law` is {method.position_law}; "
            "export a bundle."
        )
    pairs = torch.stack([tensors[f"{_SITE}.keys"], tensors[f"{_SITE}.values"]], dim=1)
    site = backbone.geometry[_SITE]
    numbers = {
        "num_virtual_tokens": method.prefix_length,
        "num_layers": site.num_layers,
        "num_attention_heads": site.num_kv_heads,
        "token_dim": site.kv_width,
        "num_transformer_submodules": 1,
    }
    config: Any = (
        CartridgeConfig(**numbers, num_frozen_tokens=1) if method.frozen_sink else PrefixTuningConfig(**numbers)
    )
    # (layers, 2, kv_heads, prefix, head_dim) as (prefix, layers x 2 x kv_heads x head_dim)
    return config, {_ROWS: pairs.permute(3, 0, 1, 2, 4).flatten(1)}


def _refuse_windows(backbone: Backbone) -> None:
    """Refuse virtual tokens that PEFT lets fall out of a layer's window, while here every position sees them.

    Raises:
        ValueError: The backbone has such layers.
    """
    if not backbone.is_encoder_decoder and has_attention_windows(backbone.model):
        raise ValueError(
            f"PEFT lets virtual tokens fall out of the attention windows of {backbone.name}, but here every position "
            "sees them; use a bundle, or LoRA or IA3."
        )


def _written_prompt(method: Any, backbone: Backbone) -> tuple[PeftConfig, dict[str, Tensor]]:
    _refuse_windows(backbone)
    rows = method.export()[1]["rows"]
    config = PromptTuningConfig(
        num_virtual_tokens=rows.shape[0],
        token_dim=rows.shape[1],
        num_layers=next(iter(backbone.geometry.values())).num_layers,
        num_attention_heads=next(iter(backbone.geometry.values())).num_kv_heads,
        num_transformer_submodules=1,
    )
    return config, {_ROWS: rows}


def _written_tuner(method: Any, backbone: Backbone) -> tuple[PeftConfig, dict[str, Tensor]]:
    config, tensors = tuner_as_peft(method, backbone)
    return config, {f"{_ROOT}{name}": tensor for name, tensor in tensors.items()}


_LORA_PARTS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
_IA3_PARTS = {"factors": "ia3_l"}


def _written_lora(method: Any, backbone: Backbone) -> tuple[PeftConfig, dict[str, Tensor]]:
    settings, tensors = method.export()
    config = LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        lora_dropout=method.dropout,
        use_dora=settings["use_dora"],
        use_rslora=settings["use_rslora"],
        target_modules=settings["target_modules"],
        fan_in_fan_out=_is_transposed(backbone),
    )
    return config, _peft_names(tensors, _LORA_PARTS)


def _written_ia3(method: Any, backbone: Backbone) -> tuple[PeftConfig, dict[str, Tensor]]:
    settings, tensors = method.export()
    config = IA3Config(
        target_modules=settings["target_modules"],
        feedforward_modules=settings["feedforward_modules"],
        fan_in_fan_out=_is_transposed(backbone),
    )
    return config, _peft_names(tensors, _IA3_PARTS)


def _is_transposed(backbone: Backbone) -> bool:
    return any(site.is_transposed for site in linear_sites(backbone))


def _peft_names(tensors: Mapping[str, Tensor], parts: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors `<path>.<part>` by PEFT's names."""
    split = {name: name.rpartition(".") for name in tensors}
    return {f"{_ROOT}{path}.{parts[part]}": tensors[name] for name, (path, _, part) in split.items()}


def _own_names(tensors: Mapping[str, Tensor], parts: Mapping[str, str]) -> dict[str, Tensor]:
    """PEFT's tensors as `<path>.<part>`.

    Raises:
        ValueError: A tensor is of no part.
    """
    own = {}
    for name, tensor in tensors.items():
        part = next((part for part, end in parts.items() if name.endswith(f".{end}")), None)
        if part is None or not name.startswith(_ROOT):
            raise ValueError(f"its tensor '{name}' has no counterpart here.")
        own[f"{name.removeprefix(_ROOT).removesuffix(f'.{parts[part]}')}.{part}"] = tensor.float()
    return own


def _read_rows(adapter: PeftAdapter, shape: tuple[int, ...]) -> Tensor:
    rows = adapter.tensors[_ROWS]
    if set(adapter.tensors) != {_ROWS} or tuple(rows.shape) != shape:
        raise ValueError(f"`{_ROWS}` must be its only tensor, of shape {list(shape)}, but is of {list(rows.shape)}.")
    return rows.float()


def _read_prefix(adapter: PeftAdapter, backbone: Backbone) -> Method:
    if backbone.is_encoder_decoder:
        raise ValueError("a prefix of an encoder-decoder is stored otherwise there; train one here.")
    _refuse_windows(backbone)
    length = int(adapter.config["num_virtual_tokens"])
    site = backbone.geometry[_SITE]
    rows = _read_rows(adapter, (length, 2 * site.num_layers * site.kv_width))
    method = PrefixTuning(prefix_length=length, reparam="none").attach(backbone)
    pairs = rows.view(length, site.num_layers, 2, site.num_kv_heads, site.head_dim).permute(1, 2, 3, 0, 4)
    return _filled(method, {f"tables.{_SITE}.table": pairs})


def _read_prompt(adapter: PeftAdapter, backbone: Backbone) -> Method:
    length = int(adapter.config["num_virtual_tokens"])
    _refuse_windows(backbone)
    rows = _read_rows(adapter, (length, backbone.embedding_size))
    return _filled(PromptTuning(prompt_length=length).attach(backbone), {"rows": rows})


def _read_lora(adapter: PeftAdapter, backbone: Backbone) -> Method:
    config, tensors = adapter.config, _own_names(adapter.tensors, _LORA_PARTS)
    method = LoRA(
        rank=config["r"],
        alpha=float(config["lora_alpha"]),
        dropout=0.0,
        use_dora=bool(config.get("use_dora")),
        use_rslora=bool(config.get("use_rslora")),
        target_modules=_target_modules(config, tensors, backbone),
    )
    return _filled_layers(method, tensors, backbone)


def _read_ia3(adapter: PeftAdapter, backbone: Backbone) -> Method:
    config, tensors = adapter.config, _own_names(adapter.tensors, _IA3_PARTS)
    method = IA3(
        target_modules=_target_modules(config, tensors, backbone), feedforward_modules=config["feedforward_modules"]
    )
    return _filled_layers(method, tensors, backbone)


def _read_tuner(adapter: PeftAdapter, backbone: Backbone) -> Method:
    kind = str(adapter.config["peft_type"]).lower()
    tensors = own_tensors(adapter.tensors, _ROOT)
    paths = list(dict.fromkeys(path_in(name, kind) for name in tensors))
    names = adapter.config.get("target_modules")
    method = tuner_from_peft(kind, adapter.config, sorted(names) if isinstance(names, list) else paths)
    if problems := method.incompatibilities(backbone):
        raise ValueError(" ".join(problems))
    filled = _filled(method.attach(backbone), tensors)
    try:
        check_projections(method, adapter.tensors)
    except ValueError:
        method.detach()
        raise
    return filled


def _target_modules(config: Mapping[str, Any], tensors: Mapping[str, Tensor], backbone: Backbone) -> list[str]:
    """The names of the adapted modules: those of the config where they mean the same here, else their paths."""
    paths = list(dict.fromkeys(name.rpartition(".")[0] for name in tensors))
    names: Sequence[str] | str | None = config.get("target_modules")
    if isinstance(names, list):
        meant = {site.path for site in linear_sites(backbone) if any(site.is_named(name) for name in names)}
        if meant == set(paths):
            return sorted(names)
    return paths


def _filled_layers(method: InjectedLayers, tensors: Mapping[str, Tensor], backbone: Backbone) -> Method:
    if problems := method.incompatibilities(backbone):
        raise ValueError(" ".join(problems))
    return _filled(method.attach(backbone), tensors)


def _filled(method: Method, tensors: Mapping[str, Tensor]) -> Method:
    """The method with these parameters; detached again if they are not its own."""
    try:
        method.load_trainable_parameters(tensors)
    except Exception as error:
        method.detach()
        raise ValueError(str(error)) from error
    return method


_Writer = Callable[[Any, Backbone], tuple[PeftConfig, dict[str, Tensor]]]
_Reader = Callable[[PeftAdapter, Backbone], Method]

_WRITERS: Mapping[type[Method], _Writer] = {
    PrefixTuning: _written_prefix,
    PromptTuning: _written_prompt,
    LoRA: _written_lora,
    IA3: _written_ia3,
    PeftTuner: _written_tuner,
}
_NEARLY = {
    "gated_prefix": " (its ADAPTION_PROMPT has one gate for all heads, without the tanh, and projects embeddings)"
}
"""What comes close to a method in PEFT and computes something else, by the method's kind."""
_PROMPT = frozenset(
    {"num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim", "num_transformer_submodules"}
)
_MODULES = frozenset({"target_modules", "fan_in_fan_out", "layers_to_transform", "layers_pattern", "exclude_modules"})
_READERS: Mapping[str, tuple[Callable[[], PeftConfig], frozenset[str], _Reader]] = {
    "PREFIX_TUNING": (PrefixTuningConfig, _PROMPT, _read_prefix),
    "CARTRIDGE": (lambda: CartridgeConfig(num_virtual_tokens=1), _PROMPT | {"num_frozen_tokens"}, _read_prefix),
    "PROMPT_TUNING": (PromptTuningConfig, _PROMPT, _read_prompt),
    "LORA": (LoraConfig, _MODULES | {"r", "lora_alpha", "use_dora", "use_rslora"}, _read_lora),
    "IA3": (IA3Config, _MODULES | {"feedforward_modules"}, _read_ia3),
    **{
        kind.upper(): (partial(defaults_of_tuner, kind), _MODULES | offered_settings(kind), _read_tuner)
        for kind in EXCHANGED
    },
}
