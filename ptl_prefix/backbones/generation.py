"""Decode text from conditioned inputs, the same way for every method.

In: prompts that a method has conditioned. Out: the ids that the backbone writes after each.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs


@torch.no_grad()
def generate(backbone: Backbone, inputs: ModelInputs, decoding: Decoding, stop_ids: Sequence[int]) -> list[list[int]]:
    """What the backbone writes after each prompt of a `prompt_batch`, up to and with the first stop id.

    Raises:
        ValueError: When the prompt and the text to write do not fit the backbone's learned positions.
    """
    if inputs.position_ids is None:
        inputs = inputs.with_positions()
    _check_room(backbone, inputs, decoding)
    mode = backbone.model.training
    backbone.model.eval()
    try:
        # Sampling draws from a seed of its own and leaves the caller's random state alone.
        with (
            backbone.slots.exclusive(),
            backbone.unsharded_ends(),  # an encoder is called by itself
            _no_settings_of_its_own(backbone.model),
            torch.random.fork_rng(enabled=decoding.do_sample),
        ):
            if decoding.do_sample:
                torch.manual_seed(decoding.seed)
            written = backbone.model.generate(  # type: ignore[operator]
                **backbone.input_arguments(inputs),
                generation_config=_generation_config(decoding, stop_ids, backbone),
                **_start(backbone, inputs, decoding.max_new_tokens),
            )
    finally:
        backbone.model.train(mode)
    given = inputs.input_ids if inputs.decoder_input_ids is None else inputs.decoder_input_ids
    return [_up_to_stop(ids, stop_ids) for ids in written[:, given.shape[1] :].tolist()]


def _start(backbone: Backbone, inputs: ModelInputs, max_new_tokens: int) -> dict[str, Any]:
    """Where writing begins: after the prompt, at its positions, or with an encoder-decoder's own start; and a cache."""
    begun = inputs.input_ids if inputs.decoder_input_ids is None else inputs.decoder_input_ids
    written = begun.shape[1] + max_new_tokens
    cache = backbone.slots.cache(read=inputs.num_columns_read, written=written)
    if inputs.decoder_input_ids is None:
        return {"position_ids": inputs.position_ids} | ({} if cache is None else {"past_key_values": cache})
    # The cache that transformers would make has as many layers as the encoder: too few for a deeper T5 decoder.
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if cache is None else cache
    return {"decoder_input_ids": inputs.decoder_input_ids, "past_key_values": cache}


@contextmanager
def _no_settings_of_its_own(model: Any) -> Iterator[None]:
    """Many models come with a generation_config.json, and transformers takes from it whatever a caller leaves open.

    bart-large-cnn would then write at least 56 tokens and repeat no 3-gram, and nobody would be told.
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
        # Without a cache transformers would take positions that jump, as behind an infix, for packed documents.
        use_cache=True,
        decoder_start_token_id=backbone.decoder_start_id,
        **sampling,
        **beams,
    )


def _check_room(backbone: Backbone, inputs: ModelInputs, decoding: Decoding) -> None:
    limit = backbone.max_positions
    if limit is None or not backbone.has_hard_position_limit:
        return
    if inputs.decoder_input_ids is None:
        assert inputs.position_ids is not None
        needed = {"Prefix, prompt and": int(inputs.position_ids.max()) + 1 + decoding.max_new_tokens}
    else:
        needed = {
            "A prompt": inputs.num_columns_read,
            "A text's start and": inputs.decoder_input_ids.shape[1] + decoding.max_new_tokens,
        }
    for what, tokens in needed.items():
        if tokens > limit:
            new = " `generation.max_new_tokens`" if what.endswith("and") else ""
            raise ValueError(
                f"{what}{new} must fit the {limit} positions of {backbone.name}, but need {tokens}; "
                "shorten the prompt or write less."
            )


def _up_to_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    for place, token in enumerate(ids):
        if token in stop_ids:
            return ids[: place + 1]
    return ids
