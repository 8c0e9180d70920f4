"""The tuners of the PEFT library that `method=peft` offers, and the check of their settings.

In: the name of a tuner and its settings, as a config has them. Out: one sentence for each mistake, or PEFT's config. A
tuner is offered if a bundle can hold all that it needs: what it trains, and what can be made again from a seed.
"""

import dataclasses
import warnings
from collections.abc import Collection, Mapping
from typing import Any, get_type_hints

from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from ptl_prefix.settings import field_problems

TUNERS = (
    "beft",
    "boft",
    "c3a",
    "fourierft",
    "gralora",
    "hira",
    "hra",
    "ln_tuning",
    "loha",
    "lokr",
    "miss",
    "oft",
    "peanut",
    "randlora",
    "road",
    "shira",
    "vera",
    "waveft",
)
"""PEFT's names of the tuners, in lower case."""

NORM_TUNERS = frozenset({"ln_tuning"})
"""Tuners of normalisation layers; the others change linear modules."""

_OWN_METHODS = {
    "adaption_prompt": "prefix_tuning",
    "cartridge": "prefix_tuning",
    "cpt": "prompt_tuning",
    "ia3": "ia3",
    "lora": "lora",
    "multitask_prompt_tuning": "prompt_tuning",
    "p_tuning": "prompt_tuning",
    "prefix_tuning": "prefix_tuning",
    "prompt_tuning": "prompt_tuning",
}
"""Types of PEFT for which this project has a method of its own."""

_DECIDED_HERE = {
    "bias": "a method trains no parameter of the backbone; method=bitfit trains the biases",
    "exclude_modules": "`method.target_modules` takes names and whole paths",
    "fan_in_fan_out": "the backbone decides it",
    "layers_pattern": "`method.target_modules` takes names and whole paths",
    "layers_to_transform": "`method.target_modules` takes names and whole paths",
    "modules_to_save": "a method trains no module of the backbone",
    "save_projection": "a bundle has the projections' seed",
    "target_modules": "it is `method.target_modules`",
}
"""Fields of PEFT's configs that are no settings here, with the reason."""

_LARGEST = 2**16
"""Bound of a setting that is a size: a bundle's settings may come from anyone, and memory is allocated for them."""


def tuner_problems(peft_type: str, settings: Mapping[str, Any]) -> list[str]:
    """Every mistake in the name of a tuner and in its settings, one sentence each."""
    if peft_type not in TUNERS:
        return [_type_problem(peft_type)]
    config_class = _config_class(peft_type)
    decided = [key for key in settings if key in _DECIDED_HERE and key in _field_names(config_class)]
    problems = [f"`method.settings.{key}` is not a setting, as {_DECIDED_HERE[key]}; remove it." for key in decided]
    own, types = {key: value for key, value in settings.items() if key not in decided}, _offered(config_class)
    found = []
    for key, value in own.items():
        of_key = field_problems(types, {key: value}, where="method.settings", owner=config_class.__name__)
        found += of_key or _range_problems(config_class, key, value)
    if not found:
        try:
            tuner_config(peft_type, own, targets=["module"])
        except (TypeError, ValueError) as error:
            found.append(f"`method.settings` must be accepted by PEFT's {config_class.__name__}, but: {error}")
    return problems + found


def tuner_config(peft_type: str, settings: Mapping[str, Any], *, targets: Collection[str]) -> PeftConfig:
    """PEFT's config of a tuner for the modules at these paths."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is decided here, such as projections that are not saved
        config: PeftConfig = _config_class(peft_type)(target_modules=list(targets), **settings)
    return config


def has_setting(peft_type: str, name: str) -> bool:
    """Whether a tuner has this setting."""
    return name in _field_names(_config_class(peft_type))


def offered_settings(peft_type: str) -> frozenset[str]:
    """The names of a tuner's settings."""
    return frozenset(_offered(_config_class(peft_type)))


def _type_problem(peft_type: str) -> str:
    law = f"`method.peft_type` must be one of {', '.join(TUNERS)}"
    if peft_type.lower() in TUNERS:
        return f"{law}, but is '{peft_type}'; write it in lower case."
    if own := _OWN_METHODS.get(peft_type.lower()):
        return f"{law}, but is '{peft_type}'; use method={own}."
    if peft_type.upper() in PeftType.__members__:
        return f"{law}, but is '{peft_type}', which needs more than a bundle of its trained parameters; choose another."
    return f"{law}, but is '{peft_type}'."


def _config_class(peft_type: str) -> type[Any]:
    found: type[Any] = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(peft_type.upper())]
    return found


def _field_names(config_class: type[Any]) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(config_class))


def _offered(config_class: type[Any]) -> dict[str, Any]:
    """The fields of a config that are settings here, with their types."""
    hidden = {*_field_names(PeftConfig), *_DECIDED_HERE}
    return {
        name: one for name, one in get_type_hints(config_class).items() if name in _field_names(config_class) - hidden
    }


def _range_problems(config_class: type[Any], key: str, value: Any) -> list[str]:
    """The range that a value leaves; PEFT's types have none."""
    law = f"`method.settings.{key}` must be"
    if key.endswith("dropout") and not 0 <= value < 1:
        return [f"{law} >= 0 and < 1, but is {value!r}."]
    if not isinstance(value, int) or isinstance(value, bool) or "seed" in key or "key" in key:
        return []
    default = {field.name: field.default for field in dataclasses.fields(config_class)}[key]
    least = 1 if key == "r" and default else min(0, default) if isinstance(default, int) else 0
    if not least <= value <= _LARGEST:
        return [f"{law} >= {least} and <= {_LARGEST}, but is {value!r}."]
    return []
