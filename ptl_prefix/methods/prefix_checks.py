"""Checks of prefix-tuning's settings against a backbone.

In: settings, and a backbone's shape. Out: problems, one sentence each; nothing is loaded or changed.
"""

from collections.abc import Sequence

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.errors import BundleError, HubError
from ptl_prefix.methods.prefix_start import bundle_problems


def site_problems(sites: Sequence[str] | None, backbone: Backbone) -> list[str]:
    """Names of `method.sites` that are not attention sites of the backbone."""
    known = ", ".join(f"'{site}'" for site in backbone.geometry)
    return [
        f"`method.sites` must be attention sites of the backbone, but '{site}' is not one of "
        f"{backbone.name}'s ({known})."
        for site in sites or ()
        if site not in backbone.geometry
    ]


def layer_problems(layers: Sequence[int] | None, backbone: Backbone) -> list[str]:
    """Indices of `method.layers` that are missing, repeated or out of range."""
    problems = []
    depth = max(geometry.num_layers for geometry in backbone.geometry.values())
    if layers is not None and (not layers or len(set(layers)) < len(layers)):
        problems.append(f"`method.layers` must name at least one layer, and each once, but is {list(layers)}.")
    for layer in layers or ():
        if not 0 <= layer < depth:
            problems.append(f"`method.layers` must be from 0 to {depth - 1} in {backbone.name}, but {layer} is not.")
    return problems


def length_problems(prefix_length: int, *, reserved: int, backbone: Backbone) -> list[str]:
    """A `method.prefix_length` that leaves no positions for text.

    Args:
        prefix_length: The setting.
        reserved: Number of positions that the prefix occupies.
        backbone: The backbone.
    """
    limit = backbone.max_positions
    if limit is None or reserved < limit:
        return []
    return [
        f"`method.prefix_length` must be less than the {limit} positions of {backbone.name}, but is {prefix_length}."
    ]


def causality_problems(position_law: str | None, reparam: str, backbone: Backbone) -> list[str]:
    """Settings that need a causal backbone, for an encoder-decoder."""
    if not backbone.is_encoder_decoder:
        return []
    problems = []
    if position_law in ("shifted", "infix"):
        problems.append(
            f"`method.position_law` must be unshifted in encoder-decoders, which compute their own positions, but is "
            f"{position_law} and {backbone.name} is one."
        )
    if reparam == "embedding":
        problems.append(
            f"`method.reparam=embedding` needs a causal backbone, but {backbone.name} has an encoder, where a "
            "prefix would see the text; choose none, mlp or linear."
        )
    return problems


def frozen_sink_problems(frozen_sink: bool, prefix_length: int) -> list[str]:
    """A frozen sink that leaves no position to train."""
    if not frozen_sink or prefix_length > 1:
        return []
    return [f"`method.prefix_length` must be > 1 with `method.frozen_sink=true`, but is {prefix_length}."]


def init_problems(*, init: str, init_text: str | None, init_bundle: str | None, reparam: str) -> list[str]:
    """An initialisation that its reparametrisation does not support, or that lacks its text or bundle."""
    problems = []
    if reparam == "embedding" and init in ("zero_values", "bundle"):
        problems.append(f"`method.init` must be random or text with `method.reparam=embedding`, but is {init}.")
    for key, value, needed_by in (("init_text", init_text, "text"), ("init_bundle", init_bundle, "bundle")):
        if (value is not None) != (init == needed_by):
            problems.append(
                f"`method.{key}` must be given with `method.init={needed_by}` and only then, but init is {init} "
                f"and {key} is {value!r}."
            )
    return problems


def init_bundle_problems(
    folder: str, backbone: Backbone, sites: Sequence[str], layers: Sequence[int] | None
) -> list[str]:
    """Why the prefix of `method.init_bundle` cannot initialise these sites and layers."""
    try:
        return bundle_problems(folder, backbone.geometry, sites, layers)
    except (BundleError, HubError) as error:
        return [f"`method.init_bundle`: {error}"]
