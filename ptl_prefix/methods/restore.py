"""From a bundle to a backbone that can be asked.

In: an attached backbone's name and a bundle's folder. Out: `Adaptation`: the method, restored, with the prompt format
and the decoding it was trained for. Several adaptations share one backbone; each fills the slots when it is asked.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptl_prefix import methods
from ptl_prefix.artifacts.bundle import Bundle, check_backbone, read_bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.model_inputs import prompt_batch
from ptl_prefix.errors import BackboneError, BundleError
from ptl_prefix.methods.method import Method


class Adaptation:
    """A bundle at work on a backbone.

    Args:
        backbone: The frozen model.
        method: What the bundle held, attached to it.
        bundle: The bundle.
    """

    def __init__(self, backbone: Backbone, method: Method, bundle: Bundle) -> None:
        self.backbone = backbone
        self.method = method
        self.bundle = bundle
        self._prompter = backbone.prompter(bundle.manifest.prompt)

    def generate(self, sources: Sequence[str], **decoding: Any) -> list[str]:
        """What the adapted backbone writes for each source.

        Args:
            sources: Rendered as the bundle's task renders them.
            decoding: Changes to the bundle's own decoding, by the names of `Decoding`.
        """
        settings = dataclasses.replace(self.bundle.manifest.decoding, **decoding)
        room = self.backbone.position_budget(
            reserved=self.method.position_offset, max_new_tokens=settings.max_new_tokens
        )
        room = None if room is None else room - self._prompter.num_fixed_tokens
        prompts = [self._prompter.encode_source(source, room) for source in sources]
        inputs = prompt_batch(prompts, self.backbone.pad_id, self._prompter.decoder_start_ids).to(self.backbone.device)
        with self.backbone.slots.exclusive():
            ids = generate(self.backbone, self.method.condition(inputs), settings, self._prompter.stop_ids)
            self.backbone.slots.clear()
        return [self._prompter.decode(row) for row in ids]

    def detach(self) -> None:
        """Take the method off the backbone, which is an ordinary transformers model again."""
        self.method.detach()
        self.backbone.adaptations.remove(self)


def load_bundle(folder: str | Path, backbone: Backbone) -> Adaptation:
    """Read a bundle and put it to work on the backbone that it was made for.

    Raises:
        BundleError: When the bundle is damaged, foreign, or made for another backbone.
    """
    return restore(backbone, read_bundle(Path(folder)))


def restore(backbone: Backbone, bundle: Bundle) -> Adaptation:
    """Put a bundle to work on the backbone that it was made for.

    Raises:
        BundleError: When it was made for another backbone, or by a method that is not known here.
        BackboneError: When it and what is at work there would change each other's answers.
    """
    check_backbone(bundle.manifest, backbone.identity)
    kind = method_class(bundle.manifest.method)
    _check_sharing(kind, [other for other in backbone.adaptations if other.method.is_attached])
    try:
        method = kind.restore(bundle, backbone)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(
            f"A bundle must hold what its method needs, but this one of '{bundle.manifest.method}' does not: {error} "
            "Export it again from its run."
        ) from error
    adaptation = Adaptation(backbone, method, bundle)
    backbone.adaptations.append(adaptation)
    return adaptation


def _check_sharing(kind: type[Method], others: Sequence[Adaptation]) -> None:
    if others and (kind.is_exclusive or any(other.method.is_exclusive for other in others)):
        exclusive = kind.kind if kind.is_exclusive else others[0].method.kind
        raise BackboneError(
            f"An adaptation by '{exclusive}' acts in every forward pass and must be alone on its backbone, but this "
            "would be the second one there; detach the first, merge it on export, or load the backbone again."
        )


def method_class(kind: str) -> type[Method]:
    """The method that `methods/<kind>.py` defines.

    Raises:
        BundleError: Naming those that there are.
    """
    known = [module.name for module in pkgutil.iter_modules(methods.__path__)]
    if kind in known:
        module = importlib.import_module(f"{methods.__name__}.{kind}")
        for member in vars(module).values():
            if isinstance(member, type) and issubclass(member, Method) and getattr(member, "kind", None) == kind:
                return member
    raise BundleError(
        f"A bundle's method must be known here, but '{kind}' is not; use the version of ptl_prefix that wrote it."
    )
