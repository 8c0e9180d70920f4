"""Several methods at work together, such as prefix-tuning and LoRA (He et al., 2022).

In: a backbone, once; a batch, per forward. Out: what each part makes of it, one after another. The parts are trained
at once, each with its own learning rate unless a run chooses one for all, and exported as one bundle.

Parts share a backbone if none takes what another has: the attention slots (prefix-tuning, and prompt tuning in
decoder-only backbones), the weights (LoRA, IA3, fine-tuning), the outputs of sublayers (adapters).

Difference from He et al.: their "MAM adapter" reads a sublayer's input, beside it; the adapters here stand behind it.
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
from ptl_prefix.settings import settings_from

_T = TypeVar("_T")

_SEPARATOR = "/"
"""Between a part's name and that of its tensor; no method's own tensors have it in their names."""


class Combination(Method):
    """Two or more methods as one.

    Args:
        name: What runs and records call it.
        parts: The methods, none of them attached, by the names that their tensors get.
    """

    kind = "combination"
    is_exclusive = True

    @settings_from("method/prefix_lora")
    def __init__(self, *, name: str, parts: Mapping[str, Any]) -> None:
        strange = [key for key, part in parts.items() if not isinstance(part, Method) or isinstance(part, Combination)]
        if strange or len(parts) < 2:
            raise ValueError(
                "`method.parts` must be two methods or more, none of them a combination, but "
                + (f"{' and '.join(map(repr, strange))} is none." if strange else f"there is {len(parts)}.")
            )
        # Every part has a learning rate of its own; this is only what one number can say of them.
        super().__init__(name=name, default_lr=max(part.default_lr for part in parts.values()))
        self.parts = nn.ModuleDict(dict(parts))
        self.base_mode = "train" if all(part.base_mode == "train" for part in parts.values()) else "eval"

    def _parts(self) -> dict[str, Method]:
        parts: dict[str, Method] = dict(self.parts.items())  # type: ignore[arg-type]
        return parts

    def provide_labels(self, label_set: Any) -> None:
        """Every part hears them."""
        for part in self._parts().values():
            part.provide_labels(label_set)

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """All that its parts take."""
        return frozenset().union(*(part.exclusive_resources(backbone) for part in self._parts().values()))

    def direct_weight_access(self, backbone: Backbone) -> str | None:
        """What the first of its parts does that does anything."""
        return next(filter(None, (part.direct_weight_access(backbone) for part in self._parts().values())), None)

    @property
    def needs_size(self) -> bool:
        """Whether one of its parts does."""
        return any(part.needs_size for part in self._parts().values())

    def choose_size(self, backbone: Backbone) -> dict[str, Any]:
        """Every part that was asked for it chooses its size."""
        chosen = {name: part.choose_size(backbone) for name, part in self._parts().items()}
        return {"parts": chosen} if any(chosen.values()) else {}

    def problems(self, backbone: Backbone) -> list[str]:
        """Parts that want the same of the backbone, and what is wrong with each."""
        misfits = [
            f"`method.parts` must not share what they work on, but '{one}' ({first.name}) and '{other}' "
            f"({second.name}) both take the {resource} of {backbone.name}."
            for (one, first), (other, second) in combinations(self._parts().items(), 2)
            for resource in sorted(first.exclusive_resources(backbone) & second.exclusive_resources(backbone))
        ]
        for name, part in self._parts().items():
            # A part speaks of its settings as if they were the whole method's.
            misfits += [misfit.replace("`method.", f"`method.parts.{name}.") for misfit in part.problems(backbone)]
        return misfits

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
        """Each part in its turn."""
        for part in self._in_turn():
            inputs = part.condition(inputs)
        return inputs

    def _in_turn(self) -> list[Method]:
        """Whoever moves the text's positions comes last: the others put them back."""
        return sorted(self._parts().values(), key=lambda part: part.position_offset)

    def neutralize(self) -> None:
        """Let no part have an effect."""
        for part in self._parts().values():
            part.neutralize()

    def reserved_positions(self, backbone: Backbone) -> int:
        """What its parts take together: of those, one at most takes any."""
        return sum(part.reserved_positions(backbone) for part in self._parts().values())

    @property
    def position_law(self) -> str:
        """That of the part that fills the slots."""
        laws = {part.position_law for part in self._parts().values()} - {"unshifted"}
        return laws.pop() if laws else "unshifted"

    @property
    def num_stored(self) -> int:
        """The sum."""
        return sum(part.num_stored for part in self._parts().values())

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """Those of every part, as `<part>/<name>`."""
        return dict(_joined({name: part.trainable_parameters() for name, part in self._parts().items()}))

    def lr_groups(self) -> Iterable[tuple[float, Iterable[nn.Parameter]]]:
        """Each part's own."""
        return [group for part in self._parts().values() for group in part.lr_groups()]

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The tensors of every part, as `<part>/<name>`, and its kind and settings."""
        exported = {name: part.export() for name, part in self._parts().items()}
        settings = {name: {"kind": part.kind, "settings": exported[name][0]} for name, part in self._parts().items()}
        return {"parts": settings}, dict(_joined({name: tensors for name, (_, tensors) in exported.items()}))

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """The parts that a bundle holds, together."""
        restored: dict[str, Method] = {}
        try:
            for name, part in bundle.manifest.settings["parts"].items():
                restored[name] = method_class(part["kind"]).restore(_part_of(bundle, name, part), backbone)
        finally:
            # Each came attached by itself; together they are attached below, and what failed leaves nothing behind.
            for method in reversed(restored.values()):
                method.detach()
        return cls(name=bundle.manifest.method, parts=restored).attach(backbone).eval()


def _joined(by_part: Mapping[str, Mapping[str, _T]]) -> Iterator[tuple[str, _T]]:
    for part, values in by_part.items():
        for name, value in values.items():
            yield f"{part}{_SEPARATOR}{name}", value


def _part_of(bundle: Bundle, name: str, part: Mapping[str, Any]) -> Bundle:
    """What a bundle holds for one of its parts, as a bundle of that part alone."""
    before = f"{name}{_SEPARATOR}"
    manifest = dataclasses.replace(bundle.manifest, method=part["kind"], settings=part["settings"])
    tensors = {key.removeprefix(before): tensor for key, tensor in bundle.tensors.items() if key.startswith(before)}
    return Bundle(manifest, tensors)
