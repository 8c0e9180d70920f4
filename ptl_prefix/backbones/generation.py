"""Decode text from conditioned inputs, the same way for every method.

In: prompts that a method has conditioned. Out: the ids that the backbone writes after each.
"""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs


@torch.no_grad()
def generate(backbone: Backbone, inputs: ModelInputs, decoding: Decoding, stop_ids: Sequence[int]) -> list[list[int]]:
    """What the backbone writes after each left-padded prompt, up to and with the first stop id.

    Raises:
        ValueError: When the prompt and the text to write do not fit the backbone's learned positions.
    """
    if inputs.position_ids is None:
        inputs = inputs.with_positions()
    assert inputs.position_ids is not None
    _check_room(backbone, inputs, decoding)
    mode = backbone.model.training
    backbone.model.eval()
    try:
        # Sampling draws from a seed of its own and leaves the caller's random state alone.
        with backbone.slots.exclusive(), torch.random.fork_rng(enabled=decoding.do_sample):
            if decoding.do_sample:
                torch.manual_seed(decoding.seed)
            written = backbone.model.generate(  # type: ignore[operator]
                input_ids=inputs.input_ids,
                attention_mask=inputs.attention_mask,
                position_ids=inputs.position_ids,
                generation_config=_generation_config(decoding, stop_ids, backbone.pad_id),
            )
    finally:
        backbone.model.train(mode)
    continuations = written[:, inputs.input_ids.shape[1] :].tolist()
    return [_up_to_stop(ids, stop_ids) for ids in continuations]


def _generation_config(decoding: Decoding, stop_ids: Sequence[int], pad_id: int) -> GenerationConfig:
    sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0} if decoding.do_sample else {}
    beams = {"length_penalty": decoding.length_penalty} if decoding.num_beams > 1 else {}
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        min_new_tokens=decoding.min_new_tokens or None,
        num_beams=decoding.num_beams,
        no_repeat_ngram_size=decoding.no_repeat_ngram_size,
        do_sample=decoding.do_sample,
        eos_token_id=list(stop_ids),
        pad_token_id=pad_id,
        **sampling,
        **beams,
    )


def _check_room(backbone: Backbone, inputs: ModelInputs, decoding: Decoding) -> None:
    assert inputs.position_ids is not None
    needed = int(inputs.position_ids.max()) + 1 + decoding.max_new_tokens
    limit = backbone.max_positions
    if backbone.max_positions_are_hard and limit is not None and needed > limit:
        raise ValueError(
            f"Prefix, prompt and `generation.max_new_tokens` must fit the {limit} positions of {backbone.name}, "
            f"but need {needed}; shorten the prompt or write less."
        )


def _up_to_stop(ids: list[int], stop_ids: Sequence[int]) -> list[int]:
    for place, token in enumerate(ids):
        if token in stop_ids:
            return ids[: place + 1]
    return ids
