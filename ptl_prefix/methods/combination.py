"""Several methods on one backbone at the same time, such as prefix-tuning and LoRA (He et al., 2022).

In: a backbone, once; a batch, per forward pass. Out: the batch, conditioned by every part. The parts are trained
together, each with its own learning rate unless a run sets one for all, and exported as one bundle.

Parts can be combined if they share no exclusive resource: the attention slots (prefix-tuning, and prompt tuning in
decoder-only backbones), the weights (LoRA, IA3, fine-tuning), the outputs of sublayers (adapters).

Difference from He et al.: their "MAM adapter" is parallel to a sublayer; the adapters here come after it.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any, Self, TypeVar

from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.methods.method import Method, Resource
from ptl_prefix.methods.restore import method_class
from ptl_prefix.methods.start_inputs import StartInputs
from ptl_prefix.settings import settings_from

_T = TypeVar("_T")

_SEPARATOR = "/"
"""Between the names of a part and its tensor; no tensor of a method has it in its name."""


class Combination(Method):
    """Two or more methods as one.

    Args:
        name: Name of the combination in run folders and records.
        parts: The methods, not attached, by their names in bundles.
    """

    kind = "combination"
    is_exclusive = True

    @settings_from("method/prefix_lora")
    def __init__(self, *, name: str, parts: Mapping[str, Any]) -> None:
        invalid = [key for key, part in parts.items() if not isinstance(part, Method) or isinstance(part, Combination)]
        if invalid or len(parts) < 2:
            raise ValueError(
                "`method.parts` must be two or more methods that are no combinations, but "
                + (f"{' and '.join(map(repr, invalid))} is none." if invalid else f"there is {len(parts)}.")
            )
        # Every part has its own learning rate, see `lr_groups`; this is the largest of them.
        super().__init__(name=name, default_lr=max(part.default_lr for part in parts.values()))
        self.parts = nn.ModuleDict(dict(parts))
        self.base_mode = "train" if all(part.base_mode == "train" for part in parts.values()) else "eval"

    def _parts(self) -> dict[str, Method]:
        parts: dict[str, Method] = dict(self.parts.items())  # type: ignore[arg-type]
        return parts

    def provide_start_inputs(self, inputs: StartInputs) -> None:
        """Give every part the same."""
        for part in self._parts().values():
            part.provide_start_inputs(inputs)

    def skip_start(self) -> None:
        """Leave out the initialisation of every part."""
        for part in self._parts().values():
            part.skip_start()

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """The exclusive resources of all parts."""
        return frozenset().union(*(part.exclusive_resources(backbone) for part in self._parts().values()))

    def direct_weight_access(self, backbone: Backbone) -> str | None:
        """That of the first part that has any."""
        return next(filter(None, (part.direct_weight_access(backbone) for part in self._parts().values())), None)

    @property
    def has_open_settings(self) -> bool:
        """Whether a part has open settings."""
        return any(part.has_open_settings for part in self._parts().values())

    def choose_settings(self, backbone: Backbone) -> dict[str, Any]:
        """Choose the open settings of every part."""
        chosen = {name: part.choose_settings(backbone) for name, part in self._parts().items()}
        return {"parts": chosen} if any(chosen.values()) else {}

    def incompatibilities(self, backbone: Backbone) -> list[str]:
        """Exclusive resources that two parts share, and the problems of each part."""
        problems = [
            f"`method.parts` must not share an exclusive resource, but '{one}' ({first.name}) and '{other}' "
            f"({second.name}) both use the {resource} of {backbone.name}."
            for (one, first), (other, second) in combinations(self._parts().items(), 2)
            for resource in sorted(first.exclusive_resources(backbone) & second.exclusive_resources(backbone))
        ]
        for name, part in self._parts().items():
            # A part names its settings `method.…`, as if it were the whole method.
            problems += [
                problem.replace("`method.", f"`method.parts.{name}.") for problem in part.incompatibilities(backbone)
            ]
        return problems

    def _attach(self, backbone: Backbone) -> None:
        attached: list[Method] = []
        try:
            for name, part in self._parts().items():
                part.attach(backbone)
                attached.append(part)
                self.notes += [f"in its part '{name}' ({part.name}) {note}" for note in part.notes]
        except Exception:
            for part in reversed(attached):
                part.detach()
            raise

    def _detach(self) -> None:
        for part in reversed(self._parts().values()):
            part.detach()

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Condition the inputs by one part after another."""
        for part in self._in_order():
            inputs = part.condition(inputs)
        return inputs

    def _in_order(self) -> list[Method]:
        """The part that shifts text positions comes last: the others would reset them."""
        return sorted(self._parts().values(), key=lambda part: part.position_offset)

    def neutralize(self) -> None:
        """Disable every part."""
        for part in self._parts().values():
            part.neutralize()

    def reserved_positions(self, backbone: Backbone) -> int:
        """The sum over parts, of which at most one occupies positions."""
        return sum(part.reserved_positions(backbone) for part in self._parts().values())

    def first_layer(self, backbone: Backbone) -> int:
        """The lowest one of the parts."""
        return min(part.first_layer(backbone) for part in self._parts().values())

    @property
    def has_fixed_positions(self) -> bool:
        """Whether no part shifts the text by a drawn number."""
        return all(part.has_fixed_positions for part in self._parts().values())

    @property
    def needs_one_text_per_row(self) -> bool:
        """Whether one of the parts needs it."""
        return any(part.needs_one_text_per_row for part in self._parts().values())

    @property
    def position_law(self) -> str:
        """The law of the part that fills the slots."""
        laws = {part.position_law for part in self._parts().values()} - {"unshifted"}
        return laws.pop() if laws else "unshifted"

    @property
    def num_stored(self) -> int:
        """The sum over parts."""
        return sum(part.num_stored for part in self._parts().values())

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """The trainable parameters of every part, as `<part>/<name>`."""
        return dict(_joined({name: part.trainable_parameters() for name, part in self._parts().items()}))

    def checkpoint_tensors(self) -> Mapping[str, Tensor]:
        """The tensors of every part, as `<part>/<name>`."""
        return dict(_joined({name: part.checkpoint_tensors() for name, part in self._parts().items()}))

    def lr_groups(self) -> Iterable[tuple[float, Iterable[nn.Parameter]]]:
        """The groups of every part."""
        return [group for part in self._parts().values() for group in part.lr_groups()]

    def tracked_norms(self) -> dict[str, float]:
        """The norm of all trainable parameters together, and the other norms of every part."""
        by_part = [part.tracked_norms() for part in self._parts().values()]
        return {name: norm for norms in by_part for name, norm in norms.items()} | super().tracked_norms()

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The kind and settings of every part, and its tensors as `<part>/<name>`."""
        exported = {name: part.export() for name, part in self._parts().items()}
        settings = {name: {"kind": part.kind, "settings": exported[name][0]} for name, part in self._parts().items()}
        return {"parts": settings}, dict(_joined({name: tensors for name, (_, tensors) in exported.items()}))

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Build the parts of a bundle, and attach them to `backbone`."""
        restored: dict[str, Method] = {}
        try:
            for name, part in bundle.manifest.settings["parts"].items():
                restored[name] = method_class(part["kind"]).restore(_part_of(bundle, name, part), backbone)
        finally:
            # `restore` attaches each part; detach them here, also after a failure, and attach them together below.
            for method in reversed(restored.values()):
                method.detach()
        return cls(name=bundle.manifest.method, parts=restored).attach(backbone).eval()


def _joined(by_part: Mapping[str, Mapping[str, _T]]) -> Iterator[tuple[str, _T]]:
    for part, values in by_part.items():
        for name, value in values.items():
            yield f"{part}{_SEPARATOR}{name}", value


def _part_of(bundle: Bundle, name: str, part: Mapping[str, Any]) -> Bundle:
    """One part of a combination's bundle, as a bundle of its own."""
    prefix = f"{name}{_SEPARATOR}"
    manifest = dataclasses.replace(bundle.manifest, method=part["kind"], settings=part["settings"])
    tensors = {key.removeprefix(prefix): tensor for key, tensor in bundle.tensors.items() if key.startswith(prefix)}
    return Bundle(manifest, tensors)
