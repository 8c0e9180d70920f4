"""Checks of prefix-tuning's settings against a backbone.

In: settings, and a backbone's shape. Out: problems, one sentence each; nothing is loaded or changed.
"""

from collections.abc import Sequence

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.errors import BundleError, HubError
from ptl_prefix.methods.prefix_start import PrefixStart, bundle_problems
from ptl_prefix.methods.start_texts import missing_text_problem


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


def distractor_length_problems(prefix_length: int, *, reserved: int, backbone: Backbone) -> list[str]:
    """Distractors that leave no positions for text beside the prefix.

    Args:
        prefix_length: Length of the prefix alone.
        reserved: Number of positions that it occupies with the longest of them.
        backbone: The backbone.
    """
    limit = backbone.max_positions
    if limit is None or reserved < limit:
        return []
    return [
        f"`method.distractors` and the prefix must be shorter than the {limit} positions of {backbone.name}, but have "
        f"{prefix_length} and {reserved - prefix_length}; lower `method.max_distractors`, or leave out the longest."
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


def train_keys_problems(train_keys: bool, reparam: str) -> list[str]:
    """Keys that cannot keep their initial values, as they are computed together with the values."""
    if train_keys or reparam != "embedding":
        return []
    return [
        "`method.train_keys` must be true with `method.reparam=embedding`, whose layers compute keys and values from "
        "the same embeddings, but is false; choose none, mlp or linear."
    ]


def init_problems(start: PrefixStart, reparam: str, backbone: Backbone) -> list[str]:
    """An initialisation that reparametrisation or backbone do not support, or that lacks its text or bundle."""
    init, problems = start.init, []
    if reparam == "embedding" and init in ("zero_values", "attention_matching", "bundle"):
        problems.append(
            f"`method.init` must be random or a text with `method.reparam=embedding`, whose layers compute keys and "
            f"values, but is {init}; choose random, text, training_inputs, demonstrations or sampled_chunks."
        )
    for key, needed_by in (
        ("init_text", "text"),
        ("init_num_chunks", "sampled_chunks"),
        ("init_num_tokens", "attention_matching"),
        ("init_bundle", "bundle"),
    ):
        if (value := getattr(start, key)) is not None and init != needed_by:
            problems.append(
                f"`method.{key}` must be given with `method.init={needed_by}` only, but init is {init} and {key} is "
                f"{value!r}; set it to null, or choose that init."
            )
    if init == "text":
        problems += missing_text_problem(start.init_text, start.inputs)
    if init == "bundle" and start.init_bundle is None:
        problems.append("`method.init_bundle` must be a bundle's folder for `method.init=bundle`, but is null.")
    return problems + (_matching_problems(start, backbone) if init == "attention_matching" else [])


def _matching_problems(start: PrefixStart, backbone: Backbone) -> list[str]:
    """A backbone or a number of tokens for which attention cannot be matched."""
    if backbone.is_encoder_decoder:
        return [
            f"`method.init=attention_matching` needs a decoder-only backbone, but {backbone.name} is an "
            "encoder-decoder; choose demonstrations."
        ]
    number, limit = start.init_num_tokens, backbone.max_positions
    if number is None or start.prefix_length <= number <= (number if limit is None else limit // 2):
        return []
    most = "" if limit is None else f" and at most {limit // 2}, half of the positions of {backbone.name}"
    return [
        f"`method.init_num_tokens` must be at least the prefix's length of {start.prefix_length}{most}, but is "
        f"{number}."
    ]


def init_bundle_problems(
    folder: str, backbone: Backbone, sites: Sequence[str], layers: Sequence[int] | None
) -> list[str]:
    """Why the prefix of `method.init_bundle` cannot initialise these sites and layers."""
    try:
        return bundle_problems(folder, backbone.geometry, sites, layers)
    except (BundleError, HubError) as error:
        return [f"`method.init_bundle`: {error}"]
