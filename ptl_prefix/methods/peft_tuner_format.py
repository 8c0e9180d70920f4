"""Tuners of PEFT as adapters of PEFT, and back.

In: a trained `PeftTuner`, or an adapter that PEFT saved. Out: the other one. What a tuner draws from a seed is not in
the adapter: PEFT makes it again from the seed in the config.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from torch import Tensor

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.linear_sites import linear_sites
from ptl_prefix.methods.peft import PeftTuner
from ptl_prefix.methods.peft_tuners import TUNERS, has_setting, offered_settings, tuner_config

EXCHANGED = tuple(tuner for tuner in TUNERS if tuner != "shira")
"""Tuners that PEFT opens: all but SHiRA, whose adapter holds a tensor of indices that no seed of PEFT's makes again."""

_FOR_TRANSPOSED = ("fourierft", "gralora", "hira", "ln_tuning", "randlora", "vera", "waveft")
"""Tuners that work with GPT-2's transposed matrices in PEFT."""


_SHARED = tuple(f"base_model.{kind}_{half}" for kind in ("vera", "randlora") for half in "AB")
"""Projections that an adapter stores once for all layers."""


def tuner_as_peft(method: PeftTuner, backbone: Backbone) -> tuple[PeftConfig, dict[str, Tensor]]:
    """PEFT's config of a tuner, and its tensors by path.

    Raises:
        ValueError: When PEFT cannot open the adapter on this backbone.
    """
    kind = method.peft_type
    if kind not in EXCHANGED:
        raise ValueError(f"PEFT stores the indices of a {kind}, but a bundle has their seed; export a bundle.")
    is_transposed = any(site.is_transposed for site in linear_sites(backbone))
    if is_transposed and kind not in _FOR_TRANSPOSED:
        raise ValueError(
            f"PEFT's {kind} takes torch's linear modules alone, but {backbone.name} has transposed ones; export a "
            "bundle."
        )
    settings, tensors = method.export()
    more = {"save_projection": False} if has_setting(kind, "save_projection") else {}
    if is_transposed and has_setting(kind, "fan_in_fan_out"):
        more["fan_in_fan_out"] = True
    return tuner_config(kind, {**settings["settings"], **more}, targets=settings["target_modules"]), tensors


def tuner_from_peft(kind: str, config: Mapping[str, Any], target_modules: Sequence[str]) -> PeftTuner:
    """The tuner of an adapter's config, not attached; settings that are PEFT's defaults are left out."""
    defaults = defaults_of_tuner(kind).to_dict()
    given = {key: config[key] for key in sorted(offered_settings(kind)) if key in config}
    changed = {key: value for key, value in given.items() if value != defaults.get(key)}
    return PeftTuner(name=kind, default_lr=1.0, peft_type=kind, settings=changed, target_modules=target_modules)


def defaults_of_tuner(kind: str) -> PeftConfig:
    """PEFT's config of a tuner with the values that an exported adapter has."""
    more = {"save_projection": False} if has_setting(kind, "save_projection") else {}
    return tuner_config(kind, more, targets=["module"])


def own_tensors(tensors: Mapping[str, Tensor], root: str) -> dict[str, Tensor]:
    """PEFT's tensors by their paths here, without projections that all layers share.

    Raises:
        ValueError: A tensor is of no module.
    """
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(_SHARED)}
    if strange := [name for name in own if not name.startswith(root)]:
        raise ValueError(f"its tensor '{strange[0]}' has no counterpart here.")
    return {name.removeprefix(root): tensor.float() for name, tensor in own.items()}


def check_projections(method: PeftTuner, tensors: Mapping[str, Tensor]) -> None:
    """Refuse projections of an adapter that are not those of its seed, which the method has.

    Raises:
        ValueError: They differ.
    """
    drawn = {name.rsplit(".", 2)[1]: tensor for name, tensor in method.drawn_tensors().items()}
    for name in (name for name in tensors if name.startswith(_SHARED)):
        if not torch.equal(tensors[name].float(), drawn[name.removeprefix("base_model.")].cpu()):
            raise ValueError(f"its projections '{name}' are not those of its seed, `projection_prng_key`.")


def path_in(name: str, kind: str) -> str:
    """The path of a module, from the name of one of its tensors: what stands before PEFT's prefix of the tuner."""
    return name.partition(f".{PEFT_TYPE_TO_PREFIX_MAPPING[PeftType(kind.upper())]}")[0]
