"""Loads a bundle onto a backbone, for generation.

In: a bundle's folder, and a backbone. Out: `Adaptation`: the restored method, with the prompt format and decoding
settings that it was trained for. Several prefix bundles can share a backbone; each fills the slots before it generates.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptl_prefix import methods
from ptl_prefix.artifacts.bundle import Bundle, check_backbone, read_bundle
from ptl_prefix.artifacts.source_template import SourceTemplate
from ptl_prefix.backbones.attachment import Attachment
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.model_inputs import prompt_batch
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.errors import BackboneError, BundleError
from ptl_prefix.methods.bundle_checks import check_bundle, check_restored
from ptl_prefix.methods.method import Method


class Adaptation(Attachment):
    """A bundle that is attached to a backbone.

    Args:
        backbone: The backbone.
        method: The bundle's method, attached to the backbone.
        bundle: The bundle.
    """

    def __init__(self, backbone: Backbone, method: Method, bundle: Bundle) -> None:
        self.backbone = backbone
        self.method = method
        self.bundle = bundle
        self._prompter = _prompter_of(bundle, backbone)
        self._template = _source_template_of(bundle)
        check_restored(bundle, position_law=method.position_law, stop_ids=self._prompter.stop_ids)

    @property
    def kind(self) -> str:
        """The method's kind, as bundles name it."""
        return self.method.kind

    @property
    def is_exclusive(self) -> bool:
        """Whether no other bundle can share the backbone."""
        return self.method.is_exclusive

    @property
    def is_attached(self) -> bool:
        """Whether the method still is attached."""
        return self.method.is_attached

    def generate(self, sources: Sequence[str], **decoding: Any) -> list[str]:
        """Generate a text for each source.

        Args:
            sources: Sources, as `rendered` takes them.
            decoding: Changes to the bundle's decoding settings, by the names of `Decoding`.

        Raises:
            ValueError: When a source cannot be rendered, or does not fit the context window, and the bundle's
                `truncation` is `none`.
            DataError: When a source is no conversation that the chat template renders.
            BackboneBusyError: When another thread is using the backbone.
        """
        return self.generate_rendered(self.rendered(sources), **decoding)

    def rendered(self, sources: Sequence[str]) -> list[str]:
        """Sources as the bundle's task renders them.

        A bundle of a task with a `prompt_template` renders each source with it: the text of its only column, or a JSON
        object with a text for each of several columns. For other bundles, sources are as they are; in a chat, one is
        the text of a user's message, or a conversation as a JSON list of messages.

        Raises:
            ValueError: When there are several columns, and a source is no JSON object with all of them.
        """
        return list(sources) if self._template is None else [self._template.render_source(one) for one in sources]

    def generate_rendered(self, sources: Sequence[str], **decoding: Any) -> list[str]:
        """Generate a text for each source, which the bundle's task has rendered; see `generate`."""
        settings = dataclasses.replace(self.bundle.manifest.decoding, **decoding)
        budget = self.backbone.position_budget(
            reserved=self.method.position_offset, max_new_tokens=settings.max_new_tokens
        )
        max_source_tokens = None if budget is None else budget - self._prompter.num_fixed_tokens
        prompts = [self._prompter.encode_source(source, max_source_tokens) for source in sources]
        inputs = prompt_batch(prompts, self.backbone.padding(self._prompter)).to(self.backbone.device)
        with self.backbone.slots.exclusive():
            ids = generate(self.backbone, self.method.condition(inputs), settings, self._prompter.stop_ids)
            self.backbone.slots.clear()
        return [self._prompter.decode(row) for row in ids]

    def detach(self) -> None:
        """Detach the method: the backbone is an ordinary transformers model again."""
        self.method.detach()
        self.backbone.attachments.remove(self)


def load_bundle(folder: str | Path, backbone: Backbone) -> Adaptation:
    """Read a bundle, and attach its method to the backbone that it was trained on.

    Args:
        folder: The bundle's folder, a run folder, or `hub:<user>/<name>[@<revision>]` on the Hugging Face hub.
        backbone: The backbone.

    Raises:
        BundleError: When the bundle is damaged, or was trained on another backbone.
        HubError: When the bundle is on the hub and cannot be fetched.
        BackboneError: When it cannot share the backbone with the bundles that are attached.
    """
    return restore(backbone, read_bundle(folder))


def restore(backbone: Backbone, bundle: Bundle) -> Adaptation:
    """Attach the method of a bundle to the backbone that it was trained on.

    Raises:
        BundleError: When it was trained on another backbone, or its method is unknown.
        BackboneError: When it cannot share the backbone with the bundles that are attached.
    """
    check_backbone(bundle.manifest, backbone.identity_like(bundle.manifest.backbone))
    check_bundle(bundle, backbone)
    kind = method_class(bundle.manifest.method)
    _check_sharing(kind, [other for other in backbone.attachments if other.is_attached])
    try:
        method = kind.restore(bundle, backbone)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(
            "A bundle must have the settings and tensors of its method, but this one of "
            f"'{bundle.manifest.method}' does not: {error} Export it again from its run."
        ) from error
    try:
        adaptation = Adaptation(backbone, method, bundle)
    except BaseException:
        method.detach()
        raise
    backbone.attachments.append(adaptation)
    return adaptation


def _prompter_of(bundle: Bundle, backbone: Backbone) -> Prompter:
    try:
        return backbone.prompter(bundle.manifest.prompt)
    except ValueError as error:
        raise BundleError(f"A bundle must have a prompt format that its backbone can read, but: {error}") from error


def _source_template_of(bundle: Bundle) -> SourceTemplate | None:
    template = bundle.manifest.prompt.source_template
    try:
        return None if template is None else SourceTemplate(template)
    except ValueError as error:
        raise BundleError(f"A bundle's `source_template` {error}") from error


def _check_sharing(kind: type[Method], others: Sequence[Attachment]) -> None:
    if others and (kind.is_exclusive or any(other.is_exclusive for other in others)):
        exclusive = kind.kind if kind.is_exclusive else others[0].kind
        raise BackboneError(
            "Only one LoRA-style, combined or fully fine-tuned bundle can be attached to a backbone (prefix bundles "
            f"can share it), but a '{exclusive}' bundle would share this one; detach the other, merge it on export, "
            "or load the backbone again."
        )


def method_class(kind: str) -> type[Method]:
    """The method class that `methods/<kind>.py` defines.

    Raises:
        BundleError: When there is none.
    """
    known = [module.name for module in pkgutil.iter_modules(methods.__path__)]
    if kind in known:
        module = importlib.import_module(f"{methods.__name__}.{kind}")
        for member in vars(module).values():
            if isinstance(member, type) and issubclass(member, Method) and getattr(member, "kind", None) == kind:
                return member
    raise BundleError(
        f"A bundle's method must be one of this version, but '{kind}' is not; use the version of ptl_prefix that wrote "
        "it."
    )
