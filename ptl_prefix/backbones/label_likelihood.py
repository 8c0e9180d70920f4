"""Log-likelihoods of a closed set of labels after a prompt, for classification.

In: conditioned prompts, and the ids of every label, with those that end a target. Out: one log-likelihood per prompt
and label. The end is part of a label: without it "card" would never be less likely than "card_arrival".

A prompt is read once. All labels then continue from its cache or, in an encoder-decoder, from its encoding.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs

_ROWS_AT_ONCE = 128
"""Labels times prompts in one forward pass; bounds the memory of the logits."""

Logits = Callable[[Int[Tensor, "labels text"]], Float[Tensor, "batch labels text vocabulary"]]
"""Function from the ids of labels to the logits that predict each of them, after every prompt."""


@torch.no_grad()
def label_log_likelihoods(
    backbone: Backbone, inputs: ModelInputs, labels: Sequence[Sequence[int]]
) -> Float[Tensor, "batch labels"]:
    """The log-likelihood of each label after each prompt, in nats, float32.

    Args:
        backbone: The backbone, its slots filled by a method if there is one.
        inputs: A `prompt_batch`, conditioned by the method.
        labels: Ids of each label, with those that end a target.
    """
    inputs = inputs if inputs.position_ids is not None else inputs.with_positions()
    mode = backbone.model.training
    backbone.model.eval()
    try:
        with backbone.slots.exclusive(), backbone.unsharded_ends():  # `_after_source` calls the encoder by itself
            after = _after_source(backbone, inputs) if backbone.is_encoder_decoder else _after_prompt(backbone, inputs)
            found = [_log_likelihoods(after, ids, mask) for ids, mask in _chunks(labels, inputs)]
    finally:
        backbone.model.train(mode)
    return torch.cat(found, dim=1)


def _chunks(labels: Sequence[Sequence[int]], inputs: ModelInputs) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of labels: padded ids and their mask, each (labels, text)."""
    size = max(1, _ROWS_AT_ONCE // inputs.num_rows)
    for start in range(0, len(labels), size):
        texts = [torch.tensor(list(label)) for label in labels[start : start + size]]
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True).to(inputs.input_ids.device)
        lengths = torch.tensor([len(text) for text in texts], device=ids.device)
        yield ids, torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]


def _log_likelihoods(after: Logits, ids: Tensor, mask: Tensor) -> Tensor:
    predicted = after(ids).float().log_softmax(-1)  # (batch, labels, text, vocabulary)
    log_probabilities = predicted.gather(-1, ids.expand(predicted.shape[0], -1, -1)[..., None])[..., 0]
    return (log_probabilities * mask).sum(-1)


def _after_prompt(backbone: Backbone, inputs: ModelInputs) -> Logits:
    """For a decoder-only backbone: the cache of the prompts is repeated for every label."""
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

    def logits(ids: Tensor) -> Tensor:
        (num_labels, width), batch = ids.shape, inputs.num_rows
        first: Tensor = prompt.logits[:, -1:].repeat_interleave(num_labels, 0)
        if width == 1:
            return _by_prompt(first, batch)
        steps = torch.arange(1, width, device=ids.device)
        text = torch.ones(batch * num_labels, width - 1, dtype=torch.long, device=ids.device)
        rest = model(
            input_ids=ids[:, :-1].repeat(batch, 1),  # rows are ordered by prompt, then label
            attention_mask=torch.cat([inputs.attention_mask.repeat_interleave(num_labels, 0), text], dim=1),
            position_ids=position_ids[:, -1:].repeat_interleave(num_labels, 0) + steps,
            past_key_values=_repeated(prompt.past_key_values, num_labels),
            use_cache=True,
        ).logits
        return _by_prompt(torch.cat([first, rest], dim=1), batch)

    return logits


def _by_prompt(logits: Tensor, batch: int) -> Tensor:
    """(batch * labels, text, vocabulary) as (batch, labels, text, vocabulary)."""
    return logits.view(batch, -1, *logits.shape[1:])


def _repeated(cache: Any, times: int) -> DynamicCache:
    """A copy of a cache with each row repeated; the original is not changed."""
    repeated = DynamicCache()
    for index, layer in enumerate(cache.layers):
        repeated.update(layer.keys.repeat_interleave(times, 0), layer.values.repeat_interleave(times, 0), index)
    return repeated


def _after_source(backbone: Backbone, inputs: ModelInputs) -> Logits:
    """For an encoder-decoder: sources are encoded once, and every label is decoded from each."""
    model: Any = backbone.model
    assert inputs.decoder_input_ids is not None
    start = inputs.decoder_input_ids  # (batch, start)
    read = backbone.input_arguments(inputs)
    encoded = model.get_encoder()(**read).last_hidden_state

    def logits(ids: Tensor) -> Tensor:
        num_labels, batch = ids.shape[0], inputs.num_rows
        written = torch.cat([start.repeat_interleave(num_labels, 0), ids[:, :-1].repeat(batch, 1)], dim=1)
        output = model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded.repeat_interleave(num_labels, 0)),
            attention_mask=read["attention_mask"].repeat_interleave(num_labels, 0),
            decoder_input_ids=written,
            use_cache=False,
        ).logits
        return _by_prompt(output[:, start.shape[1] - 1 :], batch)

    return logits
