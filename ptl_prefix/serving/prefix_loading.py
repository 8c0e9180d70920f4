"""What a bundle puts before the text of every request.

In: a bundle, and the backbone that it was trained on. Out: `LoadedPrefix`: keys and values, or rows at an encoder's
input, in the backbone's dtype and on its device. The method is attached, conditions one made-up input, and is detached
again: what it filled the slots with is the prefix.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import prompt_batch
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates
from ptl_prefix.methods.restore import Adaptation, restore


@dataclass(frozen=True, eq=False)
class LoadedPrefix:
    """A prefix in memory.

    Args:
        states: Keys and values at the attention sites, one row, and additions; `None` if the method fills no slots.
        prompt_rows: Rows that an encoder reads before the text; `None` for none.
        is_infix: Whether the prefix is visible from the last token of the prompt only.
    """

    states: PrefixStates | None
    prompt_rows: Tensor | None
    is_infix: bool

    @cached_property
    def num_bytes(self) -> int:
        """Memory of the keys, values and rows."""
        tensors = [] if self.prompt_rows is None else [self.prompt_rows]
        for layers in self.states.sites.values() if self.states is not None else ():
            tensors += [tensor for layer in layers if layer is not None for tensor in (layer.key, layer.value)]
        return sum(tensor.nbytes for tensor in tensors)


def load_prefix(backbone: Backbone, bundle: Bundle) -> LoadedPrefix:
    """The prefix of a bundle whose method can share the backbone with others.

    Raises:
        BundleError: When the bundle is not of this backbone, or its tensors are not those of its method.
        BackboneError: When its method acts in every forward pass while attached, such as LoRA.
    """
    adaptation = restore(backbone, bundle)
    try:
        return conditioned_prefix(adaptation)
    finally:
        adaptation.detach()


@torch.no_grad()
def conditioned_prefix(adaptation: Adaptation) -> LoadedPrefix:
    """What a method that is attached puts before the text."""
    backbone, manifest = adaptation.backbone, adaptation.bundle.manifest
    inputs = prompt_batch([[backbone.pad_id]], backbone.padding(backbone.prompter(manifest.prompt)))
    try:
        rows = adaptation.method.condition(inputs.to(backbone.device)).prompt_rows
        filled, additions = backbone.slots.filled(), backbone.slots.filled_additions()
    finally:
        backbone.slots.clear()
    has_states = bool(additions) or any(layer is not None for layers in filled.values() for layer in layers)
    sites = {
        site: tuple(None if layer is None else _kept(layer) for layer in layers) for site, layers in filled.items()
    }
    offset = torch.tensor([0 if manifest.position_law == "unshifted" else adaptation.method.position_offset])
    return LoadedPrefix(
        states=PrefixStates(sites, offset, additions) if has_states else None,
        prompt_rows=None if rows is None else rows.detach().to(backbone.dtype).clone(),
        is_infix=manifest.position_law == "infix",
    )


def _kept(layer: LayerStates) -> LayerStates:
    """One row of keys and values, on their own memory and visible to every query: a batch decides who sees them."""
    return LayerStates(layer.key.detach()[:1].clone(), layer.value.detach()[:1].clone(), layer.mask[:1].clone())
