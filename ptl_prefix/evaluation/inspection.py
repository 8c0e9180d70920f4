"""Inspection of a trained prefix: attention mass, nearest words, dead virtual tokens and norms.

In: a restored bundle and some texts. Out: an `Inspection`, numbers only. `DEFINITIONS` defines each of them, and is
stored with the numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ptl_prefix.artifacts.inspection import Inspection, NearestWords, SiteInspection
from ptl_prefix.backbones.attention_mass import LayerMass, prefix_mass
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prefix_states import LayerStates
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.backbones.vocabulary import Word, vocabulary_words, word_states
from ptl_prefix.data.collation import EncodedRow, collate_training
from ptl_prefix.data.encoding import encode_prompts
from ptl_prefix.errors import BundleError, DataError
from ptl_prefix.evaluation.nearest_words import NUM_RANDOM, find_nearest_words
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.methods.restore import Adaptation, method_class

DEFINITIONS = {
    "mass": "the fraction of a head's attention (softmax over prefix and text) on the prefix, averaged over all text "
    "positions that attend to it: those of the prompts, and those of the texts that the bundle generates after them",
    "even_mass": "the value that `mass` would have if the layer attended equally to every visible position",
    "token_mass": "the fraction of attention on one virtual token, averaged as in `mass`, in the head of the layer "
    "where it is greatest",
    "dead": "a virtual token whose `token_mass` is below the threshold in every layer of a site: no head attends to it",
    "norms": "the root mean square of a virtual token's key (or value) over heads and channels, divided by that of the "
    "text's keys (values) in the same layer, over all positions of the texts; 1 means equally large",
    "nearest": "the cosine, in one layer, between a virtual token's key (value) and the key (value) of a word that is "
    "read alone after one start token, as the second position of a text without a prefix; all heads are concatenated, "
    "and the direction of the words' mean is projected out of both. Rotary keys are compared as attention uses them: "
    "the word's key is rotated by one position; a prefix key has no position to undo, and values have none. A prefix "
    "is trained freely and need not resemble any word: cosines near chance mean that it does not",
    "chance": f"the cosine of the word nearest to a random normal vector, averaged over {NUM_RANDOM} vectors",
}

_DECIMALS = 6

States = dict[int, LayerStates]
"""Keys and values of one site's prefix, by layer."""


@dataclass(frozen=True, kw_only=True)
class InspectionSettings:
    """Settings of an inspection.

    Args:
        batch_size: Texts of one forward pass.
        max_new_tokens: Generated tokens that are read after each prompt; 0: prompts alone.
        dead_below: Fraction of attention below which, in every layer, a virtual token counts as dead.
        layer: Layer whose nearest words are searched; `None`: the first, the middle and the last.
        top_k: Number of nearest words for each virtual token.
        max_words: Number of vocabulary words to compare with, those of the lowest ids.
    """

    batch_size: int
    max_new_tokens: int
    dead_below: float
    layer: int | None
    top_k: int
    max_words: int


def require_prefix(kind: str) -> None:
    """Refuse a bundle without a prefix, before any weights load.

    Raises:
        BundleError: Naming its method.
    """
    if not issubclass(method_class(kind), PrefixTuning):
        raise BundleError(
            f"`inspect` needs a bundle with a prefix, but this bundle's method is '{kind}', which has none in the "
            "softmax over the text; give a bundle of prefix_tuning."
        )


def inspect_prefix(
    adaptation: Adaptation, texts: Sequence[str], settings: InspectionSettings, *, bundle: str, texts_from: str
) -> Inspection:
    """Inspect the prefix of a restored bundle while its backbone reads `texts`.

    Args:
        adaptation: Bundle, restored on its backbone.
        texts: Sources, rendered as the bundle's task renders them.
        settings: Settings of the inspection.
        bundle: Name of the bundle in the result.
        texts_from: Origin of the texts, in words.

    Raises:
        BundleError: The bundle has no prefix.
        DataError: A text does not fit, or there is none.
        ValueError: `settings.layer` has no prefix at any site.
    """
    manifest, backbone, method = adaptation.bundle.manifest, adaptation.backbone, adaptation.method
    require_prefix(manifest.method)
    assert isinstance(method, PrefixTuning)
    vocabulary = vocabulary_words(backbone)
    words = vocabulary[: settings.max_words]
    with torch.no_grad():
        states = {site: _present(layers) for site, layers in method.states().sites.items() if any(layers)}
        nearest = _nearest(backbone, states, words, settings)
        masses = _masses(adaptation, texts, settings)
    return Inspection(
        bundle=bundle,
        method=manifest.method,
        task=manifest.task,
        backbone=backbone.name,
        position_law=manifest.position_law,
        texts=texts_from,
        num_texts=len(texts),
        num_words=len(words),
        vocabulary_words=len(vocabulary),
        dead_below=settings.dead_below,
        sites={
            site: _site(layers, masses[site], nearest[site], settings.dead_below) for site, layers in states.items()
        },
        definitions=DEFINITIONS,
    )


def _present(layers: Sequence[LayerStates | None]) -> States:
    return {index: layer for index, layer in enumerate(layers) if layer is not None}


def _nearest(
    backbone: Backbone, states: Mapping[str, States], words: Sequence[Word], settings: InspectionSettings
) -> dict[str, list[NearestWords]]:
    """The nearest words at every site, in the layers that the settings choose."""
    wanted = {site: _chosen(list(layers), settings.layer) for site, layers in states.items()}
    if not any(wanted.values()):
        with_prefix = "; ".join(f"{site} {', '.join(map(str, layers))}" for site, layers in states.items())
        raise ValueError(f"`layer` must be one that has a prefix, but is {settings.layer}; choose from: {with_prefix}.")
    vocabulary = word_states(backbone, words, wanted)
    return {
        site: [
            find_nearest_words(states[site][index], of_words, words, layer=index, top_k=settings.top_k)
            for index, of_words in vocabulary.get(site, {}).items()
        ]
        for site in states
    }


def _chosen(layers: list[int], wanted: int | None) -> list[int]:
    """The layers whose nearest words are searched: the given one, or the first, the middle and the last."""
    if wanted is not None:
        return [wanted] if wanted in layers else []
    return sorted({layers[0], layers[len(layers) // 2], layers[-1]})


def _masses(
    adaptation: Adaptation, texts: Sequence[str], settings: InspectionSettings
) -> dict[str, dict[int, LayerMass]]:
    """The attention on the prefix at every site and layer, summed over all texts."""
    backbone = adaptation.backbone
    prompter = backbone.prompter(adaptation.bundle.manifest.prompt)
    rows = _rows(adaptation, prompter, texts, settings)
    totals: dict[str, dict[int, LayerMass]] = {site: {} for site in backbone.geometry}
    for start in range(0, len(rows), settings.batch_size):
        inputs = collate_training(rows[start : start + settings.batch_size], backbone.padding(prompter))
        if not settings.max_new_tokens:
            inputs = inputs.replace(labels=None)
        with backbone.slots.exclusive():
            found = prefix_mass(backbone, adaptation.method.condition(inputs.to(backbone.device)))
            backbone.slots.clear()
        for site, layers in found.items():
            for index, layer in enumerate(layers):
                if layer is not None:
                    total = totals[site].get(index)
                    totals[site][index] = layer if total is None else total + layer
    return totals


def _rows(
    adaptation: Adaptation, prompter: Prompter, texts: Sequence[str], settings: InspectionSettings
) -> list[EncodedRow]:
    """Each prompt with the text that the bundle generates after it, where a prefix has its effect."""
    backbone, number = adaptation.backbone, settings.max_new_tokens
    position_budget = backbone.position_budget(reserved=adaptation.method.position_offset, max_new_tokens=number)
    try:
        prompts = encode_prompts(texts, prompter, max_prompt_tokens=position_budget)
        written: list[list[int]] = [[] for _ in prompts]
        if number:
            written = prompter.tokenize_targets(_generated(adaptation, texts, settings))
    except ValueError as error:
        raise DataError(str(error)) from error
    if not prompts or not all(prompts):
        raise DataError("There must be texts, with a token in each, but there are none; give texts or input.")
    rows = [
        EncodedRow(input_ids=[*prompt, *target[:number]], num_source_ids=len(prompt), example=index)
        for index, (prompt, target) in enumerate(zip(prompts, written, strict=True))
    ]
    # Rows of a batch have similar lengths; the longest come first, so that too little memory fails at once.
    return sorted(rows, key=lambda row: len(row["input_ids"]), reverse=True)


def _generated(adaptation: Adaptation, texts: Sequence[str], settings: InspectionSettings) -> list[str]:
    greedy = {"max_new_tokens": settings.max_new_tokens, "min_new_tokens": 0, "num_beams": 1, "do_sample": False}
    starts = range(0, len(texts), settings.batch_size)
    batches = (texts[start : start + settings.batch_size] for start in starts)
    return [text for batch in batches for text in adaptation.generate_rendered(batch, **greedy)]


def _site(
    layers: States,
    masses: Mapping[int, LayerMass],
    nearest: Sequence[NearestWords],
    dead_below: float,
) -> SiteInspection:
    """Turn sums over queries into means, and norms into multiples of the text's own norms."""
    shares = torch.stack([mass.weights / max(mass.num_queries, 1) for mass in masses.values()]).cpu()
    token_mass = _table(shares.amax(dim=1))  # (layers, heads, prefix) -> (layers, prefix)
    # (layers, 2): of keys and of values
    text_norms = torch.stack([(mass.text_squares / mass.num_keys).sqrt() for mass in masses.values()]).cpu()
    keys = torch.stack([_root_mean_squares(layer.key) for layer in layers.values()])  # (layers, prefix)
    values = torch.stack([_root_mean_squares(layer.value) for layer in layers.values()])
    return SiteInspection(
        layers=tuple(layers),
        num_queries=next(iter(masses.values())).num_queries,
        mass=_table(shares.sum(dim=2)),
        even_mass=tuple(round(mass.even / max(mass.num_queries, 1), _DECIMALS) for mass in masses.values()),
        token_mass=token_mass,
        key_norms=_table(keys / text_norms[:, :1]),
        value_norms=_table(values / text_norms[:, 1:]),
        dead=tuple(token for token, column in enumerate(zip(*token_mass, strict=True)) if max(column) < dead_below),
        nearest=tuple(nearest),
    )


def _root_mean_squares(states: Float[Tensor, "one kv_heads prefix head_dim"]) -> Float[Tensor, " prefix"]:
    """The root mean square of each virtual token."""
    return states[0].float().square().mean(dim=(0, 2)).sqrt().cpu()


def _table(numbers: Float[Tensor, "rows columns"]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(number, _DECIMALS) for number in row) for row in numbers.tolist())
