"""Any tuner of the PEFT library that injects layers: VeRA, OFT, MiSS, LoKr, LN tuning and others.

In: a backbone, once. Out: the same model, with PEFT's layers around some of its modules. PEFT makes the layers and
computes with them; attaching, training, counting, bundles and detaching are as for every method.

Differences from PEFT: GPT-2's transposed matrices are handed to it as ordinary linear modules that share their memory,
so that every tuner works there; what a tuner draws from a seed is not stored, but made again and verified.
"""

import copy
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, Self

import torch
from annotated_types import Gt
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.linear_sites import LinearNames, LinearSite, linear_sites, norm_sites, replace_module
from ptl_prefix.methods.injected_layers import ADAPTER, InjectedLayers
from ptl_prefix.methods.peft_tuners import NORM_TUNERS, has_setting, tuner_config, tuner_problems
from ptl_prefix.settings import settings_from

_SEED = "random_seed"
"""Setting of the tuners that draw from torch's random state unless it is given."""
_FROM_A_SEED = ("fourierft", "randlora", "shira", "vera", "waveft")
"""Tuners with frozen tensors that are made again from a seed."""
_EQUAL = 1e-6
"""Largest relative difference between the sums of what is drawn, when it is drawn, and when it is drawn again."""


class PeftTuner(InjectedLayers):
    """Trains a tuner of the PEFT library.

    Args:
        name: Name of the method in run folders and records.
        default_lr: Learning rate of a run that sets none.
        peft_type: Name of the tuner, as PEFT's `PeftType` in lower case.
        settings: Fields of the tuner's config in PEFT; those that are not given have PEFT's defaults.
        target_modules: Names of the modules to adapt, each the end of one or several paths; `None` is the query and
            value projections, or every normalisation layer for `ln_tuning`.
    """

    kind = "peft"
    can_be_merged = False

    @settings_from("method/peft")
    def __init__(
        self,
        *,
        name: str,
        default_lr: Annotated[float, Gt(0)],
        peft_type: str,
        settings: Mapping[str, Any],
        target_modules: Sequence[str] | None,
    ) -> None:
        super().__init__(name=name, default_lr=default_lr, target_modules=target_modules)
        self.peft_type, self.settings = peft_type, dict(settings)
        self._noun = "normalisation layer" if peft_type in NORM_TUNERS else "linear module"
        self._originals: dict[str, nn.Module] = {}

    def problems(self) -> list[str]:
        """An unknown tuner, and mistakes in its settings."""
        return tuner_problems(self.peft_type, self.settings)

    def direct_weight_access(self, backbone: Backbone) -> str | None:
        """PEFT's layers may compute with a matrix instead of calling its module."""
        return "is a tuner of PEFT, which may read the weights of single modules"

    def incompatibilities(self, backbone: Backbone) -> list[str]:
        """Mistakes in the settings, unknown modules, quantised weights, and what PEFT says about the modules' sizes."""
        if problems := self.problems():
            return problems
        problems = super().incompatibilities(backbone)
        problems += self.quantization_incompatibilities(backbone, use=self.direct_weight_access(backbone) or "")
        if not problems and backbone.device.type == "meta":
            # Before weights load, PEFT is asked by making the layers around a shape.
            trial = copy.deepcopy(self)
            try:
                with torch.random.fork_rng():
                    trial._attach(backbone)
                trial._detach_from(backbone)
            except ValueError as error:
                problems.append(str(error))
        return problems

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Build the method of a bundle, and attach it to `backbone`."""
        settings = dict(bundle.manifest.settings)
        drawn = settings.pop("drawn")
        defaults = {"name": bundle.manifest.method, "default_lr": 1.0}
        method = cls(**defaults, **settings)._loaded(bundle, backbone)
        own = method._drawn_sums()
        if drawn.keys() != own.keys() or not all(math.isclose(drawn[name], own[name], rel_tol=_EQUAL) for name in own):
            method.detach()
            raise ValueError(
                f"what '{method.peft_type}' draws from its seed is not what the bundle was trained with, as this "
                "machine's torch draws other numbers; use the version of torch that wrote it."
            )
        return method

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Not offered: not every tuner of PEFT can be merged, and GPT-2's matrices are stored transposed.

        Raises:
            ValueError: Always.
        """
        if self.is_attached:
            raise ValueError(
                "A method must be LoRA, IA3 or fine-tuning to be merged into the weights, but "
                f"'{self.name}' is PEFT's {self.peft_type}; export it as a bundle."
            )
        yield

    def _sites(self, backbone: Backbone) -> list[LinearSite]:
        return norm_sites(backbone) if self.peft_type in NORM_TUNERS else linear_sites(backbone)

    def names_in(self, backbone: Backbone) -> list[str]:
        """The names of the modules that are wrapped in this backbone."""
        if self.target_modules is None and self.peft_type in NORM_TUNERS:
            # While attached, the backbone's layers are inside PEFT's.
            paths = self._originals or [site.path for site in norm_sites(backbone)]
            return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))
        return super().names_in(backbone)

    def _default_names(self, names: LinearNames) -> list[str]:
        return [names.query, names.value]

    def _named_sites(self, backbone: Backbone) -> list[LinearSite]:
        """The modules that are wrapped; those that are stored transposed as ordinary ones."""
        sites = super()._named_sites(backbone)
        return [replace(site, module=_as_linear(site)) if site.is_transposed else site for site in sites]

    def _attach(self, backbone: Backbone) -> None:
        self._originals = {site.path: site.module for site in super()._named_sites(backbone)}
        try:
            super()._attach(backbone)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            self._detach_from(backbone)
            raise ValueError(
                f"`method.settings` must fit the modules of {backbone.name}, but PEFT's {self.peft_type} refuses them: "
                f"{error}"
            ) from error

    def _wrap(self, backbone: Backbone, sites: Sequence[LinearSite]) -> Mapping[str, Any]:
        if has_setting(self.peft_type, _SEED) and self.settings.get(_SEED) is None:
            self.settings[_SEED] = int(torch.randint(2**31, ()))
        config = tuner_config(self.peft_type, self.settings, targets=[site.path for site in sites])
        model: Any = backbone.model
        checks: Any = torch.sparse.check_sparse_tensor_invariants
        if self.peft_type == "shira" and not checks.is_enabled():
            checks.disable()  # the default; torch warns at SHiRA's first sparse tensor if nobody chose it
        for site in sites if self.peft_type not in NORM_TUNERS else ():
            replace_module(model, site.path, _stand_in(site, backbone.device))
        with warnings.catch_warnings():
            # PEFT warns of layers that it cannot merge and of settings that are decided here.
            warnings.simplefilter("ignore")
            PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, config, ADAPTER)  # type: ignore[index]
        del model.peft_config
        layers = {site.path: model.get_submodule(site.path) for site in sites}
        for layer in layers.values() if self.peft_type in NORM_TUNERS else ():
            _compute_in_float32(layer.ln_tuning_layers[ADAPTER])
        return layers

    def _detach(self) -> None:
        self._detach_from(self.backbone)

    def _detach_from(self, backbone: Backbone) -> None:
        for path, module in self._originals.items():
            replace_module(backbone.model, path, module)
        self._originals = {}
        backbone.model.__dict__.pop("peft_config", None)

    def _trainable_in(self, layer: Any) -> Mapping[str, nn.Parameter]:
        own = [(name, one) for name, one in layer.named_parameters() if not name.startswith("base_layer.")]
        return {name.replace(f".{ADAPTER}", "", 1): parameter for name, parameter in own}

    def _settings(self) -> dict[str, Any]:
        return {"peft_type": self.peft_type, "settings": self.settings, "drawn": self._drawn_sums()}

    def drawn_tensors(self) -> dict[str, Tensor]:
        """What the layers compute with besides trained parameters and weights, by `<path>.<name>`, drawn from a seed.

        PEFT keeps some of it as buffers, and some in dicts of indices.
        """
        found = {}
        for path, layer in self._layers.items() if self.peft_type in _FROM_A_SEED else ():
            buffers = {name: one for name, one in layer.named_buffers() if not name.startswith("base_layer.")}
            indices = {name: one[ADAPTER] for name, one in vars(layer).items() if name.endswith("indices")}
            found.update({f"{path}.{name}": one for name, one in sorted({**buffers, **indices}.items())})
        return found

    def _drawn_sums(self) -> dict[str, float]:
        """A number for each kind of `drawn_tensors`, over all layers.

        No hash: RandLoRA divides by a deviation, whose last bit depends on the processor.
        """
        sums: defaultdict[str, float] = defaultdict(float)
        for name, tensor in self.drawn_tensors().items():
            values = tensor.detach().cpu().double().abs().flatten()
            weights = torch.linspace(0, 1, len(values), dtype=torch.float64)
            sums[name.removesuffix(f".{ADAPTER}").rpartition(".")[2]] += float(values @ weights)
        return dict(sums)


def _as_linear(site: LinearSite) -> nn.Linear:
    """A linear module with the memory of one that is stored transposed."""
    module: Any = site.module
    return _linear(module.weight.detach().t(), module.bias).train(module.training)


def _stand_in(site: LinearSite, device: torch.device) -> nn.Linear:
    """A linear module of a site's shape, without memory of its own.

    PEFT makes a layer in the dtype of the module that it finds. With float32, what is drawn from a seed is the same
    for a backbone of every dtype.
    """
    weight = torch.zeros((), device=device).expand(site.width_out, site.width_in)
    return _linear(weight, getattr(site.module, "bias", None))


def _linear(weight: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    width_out, width_in = weight.shape
    linear = nn.Linear(width_in, width_out, bias=bias is not None, device="meta")
    linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), bias  # type: ignore[assignment]
    return linear


def _compute_in_float32(norm: nn.Module) -> None:
    """Let a layer whose parameters are float32 take and return activations of the backbone's dtype."""
    dtypes: list[torch.dtype] = []

    def enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        dtypes.append(inputs[0].dtype)
        return (inputs[0].float(), *inputs[1:])

    def leave(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output.to(dtypes.pop())

    norm.register_forward_pre_hook(enter)
    norm.register_forward_hook(leave)
