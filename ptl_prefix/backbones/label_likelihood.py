"""The most likely of a closed set of labels after a prompt, for classification.

In: conditioned prompts, and the ids of every label, with those that end a target. Out: the most likely label of each
prompt, and its log-likelihood. The end is part of a label: without it "card" would never be less likely than
"card_arrival".

A prompt is read once. Labels then continue from its cache or, in an encoder-decoder, from its encoding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.label_tree import Ids, LabelSearch, LabelTree, LikelyLabel
from ptl_prefix.backbones.model_inputs import ModelInputs

_ROWS_AT_ONCE = 128
"""Beginnings of labels in one forward pass, over all prompts; bounds the memory of the logits."""

_BEGINNINGS_AT_ONCE = 4
"""Beginnings that are read after one prompt before it is asked which can still lead to its most likely label."""

Logits = Callable[[Int[Tensor, "rows text"], Int[Tensor, " rows"]], Float[Tensor, "rows text+1 vocabulary"]]
"""Function from ids, and the index of the prompt that each row follows, to the logits before and after each id."""


@torch.no_grad()
def most_likely_labels(backbone: Backbone, inputs: ModelInputs, labels: Sequence[Sequence[int]]) -> list[LikelyLabel]:
    """The most likely label after each prompt.

    The result is that of computing all labels (up to rounding), but only what can still win is computed.

    Args:
        backbone: The backbone, its slots filled by a method if there is one.
        inputs: A `prompt_batch`, conditioned by the method.
        labels: Ids of each label, with those that end a target.
    """
    inputs = inputs if inputs.position_ids is not None else inputs.with_positions()
    tree = LabelTree(labels)
    searches = [LabelSearch(tree) for _ in range(inputs.num_rows)]
    with _reading(backbone):
        after = _after_source(backbone, inputs) if backbone.is_encoder_decoder else _after_prompt(backbone, inputs)
        while True:
            asked = [
                (row, ids) for row, each in enumerate(searches) for ids in each.next_beginnings(_BEGINNINGS_AT_ONCE)
            ]
            if not asked:
                return [search.best for search in searches]
            for start in range(0, len(asked), _ROWS_AT_ONCE):
                _read(after, asked[start : start + _ROWS_AT_ONCE], tree, searches, inputs.input_ids.device)


def _read(
    after: Logits,
    asked: Sequence[tuple[int, Ids]],
    tree: LabelTree,
    searches: Sequence[LabelSearch],
    device: torch.device,
) -> None:
    """Tell each search what follows the beginnings that it asked about."""
    texts = [tree.further(ids) for _, ids in asked]
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(text, dtype=torch.long) for text in texts], batch_first=True)
    prompts = torch.tensor([prompt for prompt, _ in asked])
    predicted = after(ids.to(device), prompts.to(device)).float().log_softmax(-1)
    known = [
        (row, beginning)
        for row, ((_, begun), text) in enumerate(zip(asked, texts, strict=True))
        for beginning in dict.fromkeys((begun, text))
    ]
    places = [(row, len(beginning), next_id) for row, beginning in known for next_id in tree.next_ids[beginning]]
    values = iter(predicted[tuple(torch.tensor(places, device=device).T)].tolist())
    for row, beginning in known:
        following = {next_id: next(values) for next_id in tree.next_ids[beginning]}
        searches[asked[row][0]].learn(beginning, following)


@contextmanager
def _reading(backbone: Backbone) -> Iterator[None]:
    """The backbone in evaluation mode, its slots held; the mode comes back."""
    mode = backbone.model.training
    backbone.model.eval()
    try:
        with backbone.slots.exclusive(), backbone.unsharded_ends():  # `_after_source` calls the encoder by itself
            yield
    finally:
        backbone.model.train(mode)


def _after_prompt(backbone: Backbone, inputs: ModelInputs) -> Logits:
    """For a decoder-only backbone: a row of labels starts with a copy of its prompt's cache."""
    model: Any = backbone.model
    assert inputs.position_ids is not None
    position_ids = inputs.position_ids
    prompt = model(
        **backbone.input_arguments(inputs),
        position_ids=position_ids,
        use_cache=True,
        past_key_values=DynamicCache(),
        logits_to_keep=1,
    )

    def logits(ids: Tensor, prompts: Tensor) -> Tensor:
        first: Tensor = prompt.logits[prompts, -1:]
        if not ids.shape[1]:
            return first
        steps = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        text = torch.ones_like(ids)
        rest = model(
            input_ids=ids,
            attention_mask=torch.cat([inputs.attention_mask[prompts], text], dim=1),
            position_ids=position_ids[prompts, -1:] + steps,
            past_key_values=_rows_of(prompt.past_key_values, prompts),
            use_cache=True,
        ).logits
        return torch.cat([first, rest], dim=1)

    return logits


def _rows_of(cache: Any, rows: Tensor) -> DynamicCache:
    """A copy of some rows of a cache; the original is not changed."""
    chosen = DynamicCache()
    for index, layer in enumerate(cache.layers):
        chosen.update(layer.keys[rows], layer.values[rows], index)
    return chosen


def _after_source(backbone: Backbone, inputs: ModelInputs) -> Logits:
    """For an encoder-decoder: sources are encoded once, and labels are decoded from each."""
    model: Any = backbone.model
    assert inputs.decoder_input_ids is not None
    start = inputs.decoder_input_ids  # (batch, start)
    read = backbone.input_arguments(inputs)
    encoded = model.get_encoder()(**read).last_hidden_state

    def logits(ids: Tensor, prompts: Tensor) -> Tensor:
        output = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded[prompts]),
            attention_mask=read["attention_mask"][prompts],
            decoder_input_ids=torch.cat([start[prompts], ids], dim=1),
            use_cache=False,
        ).logits
        predicted: Tensor = output[:, start.shape[1] - 1 :]
        return predicted

    return logits
