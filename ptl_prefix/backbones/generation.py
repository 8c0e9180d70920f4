"""Generates text after conditioned prompts, the same way for every method.

In: prompts that a method has conditioned. Out: the generated ids of each.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.greedy import can_decode_greedily, decode_greedily
from ptl_prefix.backbones.model_inputs import ModelInputs


@torch.no_grad()
def generate(backbone: Backbone, inputs: ModelInputs, decoding: Decoding, stop_ids: Sequence[int]) -> list[list[int]]:
    """Generate the continuation of each prompt.

    Args:
        backbone: The backbone, its slots filled by a method if there is one.
        inputs: A `prompt_batch`, conditioned by the method.
        decoding: Decoding settings.
        stop_ids: Ids that end a continuation.

    Returns:
        The generated ids of each prompt, up to and including the first stop id.

    Raises:
        ValueError: When prompt and `max_new_tokens` do not fit a backbone with learned positions, or the shortest
            length is above the longest.
    """
    if problems := decoding.length_problems():
        raise ValueError(" ".join(problems))
    if inputs.position_ids is None:
        inputs = inputs.with_positions()
    _check_positions(backbone, inputs, decoding)
    mode = backbone.model.training
    backbone.model.eval()
    try:
        # Sampling has its own seed; the caller's random state does not change.
        with (
            backbone.slots.exclusive(),
            backbone.unsharded_ends(),  # generation calls the encoder by itself
            _without_generation_config(backbone.model),
            torch.random.fork_rng(enabled=decoding.do_sample),
        ):
            if can_decode_greedily(backbone, inputs, decoding):
                rows = decode_greedily(backbone, inputs, decoding, stop_ids)
                return [_up_to_stop(ids, stop_ids) for ids in rows]
            if decoding.do_sample:
                torch.manual_seed(decoding.seed)
            written = backbone.model.generate(  # type: ignore[operator]
                **backbone.input_arguments(inputs),
                generation_config=_generation_config(decoding, stop_ids, backbone),
                **_start_arguments(backbone, inputs, decoding.max_new_tokens),
            )
    finally:
        backbone.model.train(mode)
    start = inputs.input_ids if inputs.decoder_input_ids is None else inputs.decoder_input_ids
    return [_up_to_stop(ids, stop_ids) for ids in written[:, start.shape[1] :].tolist()]


def _start_arguments(backbone: Backbone, inputs: ModelInputs, max_new_tokens: int) -> dict[str, Any]:
    """Arguments of `generate`: the prompt's positions or the decoder's start ids, and a cache."""
    start = inputs.input_ids if inputs.decoder_input_ids is None else inputs.decoder_input_ids
    written = start.shape[1] + max_new_tokens
    cache = backbone.slots.cache(read=inputs.num_columns_read, written=written)
    if inputs.decoder_input_ids is None:
        return {"position_ids": inputs.position_ids} | ({} if cache is None else {"past_key_values": cache})
    # The cache that transformers would create has the encoder's number of layers: too few for a deeper T5 decoder.
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if cache is None else cache
    return {"decoder_input_ids": inputs.decoder_input_ids, "past_key_values": cache}


@contextmanager
def _without_generation_config(model: Any) -> Iterator[None]:
    """Inside, the model's own generation_config.json is not used: it would fill settings that are not given.

    With it, bart-large-cnn would silently generate at least 56 tokens and never repeat a 3-gram.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _generation_config(decoding: Decoding, stop_ids: Sequence[int], backbone: Backbone) -> GenerationConfig:
    sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0} if decoding.do_sample else {}
    beams = {"length_penalty": decoding.length_penalty} if decoding.num_beams > 1 else {}
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        min_new_tokens=decoding.min_new_tokens or None,
        num_beams=decoding.num_beams,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        do_sample=decoding.do_sample,
        eos_token_id=list(stop_ids),
        pad_token_id=backbone.pad_id,
        # Without a cache, transformers would take position ids with a gap, as after an infix, for packed documents.
        use_cache=True,
        decoder_start_token_id=backbone.decoder_start_id,
        **sampling,
        **beams,
    )


def _check_positions(backbone: Backbone, inputs: ModelInputs, decoding: Decoding) -> None:
    limit = backbone.max_positions
    if limit is None or not backbone.has_hard_position_limit:
        return
    if inputs.decoder_input_ids is None:
        assert inputs.position_ids is not None
        needed = {
            "Prefix, prompt and `generation.max_new_tokens`": int(inputs.position_ids.max())
            + 1
            + decoding.max_new_tokens
        }
    else:
        needed = {
            "The prompt": inputs.num_columns_read,
            "Decoder start and `generation.max_new_tokens`": inputs.decoder_input_ids.shape[1]
            + decoding.max_new_tokens,
        }
    for what, num_positions in needed.items():
        if num_positions > limit:
            raise ValueError(
                f"{what} must fit the {limit} positions of {backbone.name}, but need {num_positions}; "
                "shorten the prompt, or generate fewer tokens."
            )


def _up_to_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    for index, token in enumerate(ids):
        if token in stop_ids:
            return ids[: index + 1]
    return ids
