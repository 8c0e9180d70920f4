"""The bare backbone's mean hidden state of a text, by which a router can compare texts.

In: a backbone and texts. Out: one vector a text: the last layer's hidden states (of an encoder-decoder, the encoder's),
averaged over the text's tokens. Whatever is in the prefix slots is emptied first.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding, prompt_batch

MAX_TOKENS = 256
"""Tokens of a text that are read, its first ones."""


def mean_states(backbone: Backbone, texts: Sequence[str], *, batch_size: int = 16) -> npt.NDArray[np.float32]:
    """The mean hidden state of each text, (texts, width); zeros for a text without tokens.

    Args:
        backbone: Backbone; the hooks of attached methods must be idle, as they are between requests.
        texts: The texts.
        batch_size: Texts in one forward pass.
    """
    limit = min(MAX_TOKENS, backbone.max_positions or MAX_TOKENS)
    prompter = backbone.prompter(PromptFormat(max_source_tokens=limit))
    padding = backbone.padding(prompter)
    rows = np.zeros((len(texts), backbone.hidden_size), dtype=np.float32)
    all_ids = [prompter.source_ids(text) for text in texts]
    filled = [index for index, ids in enumerate(all_ids) if ids]
    with backbone.slots.exclusive():
        backbone.slots.clear()
        for start in range(0, len(filled), batch_size):
            chosen = filled[start : start + batch_size]
            rows[chosen] = _batch_states(backbone, [all_ids[index] for index in chosen], padding).cpu().numpy()
    return rows


@torch.inference_mode()
def _batch_states(backbone: Backbone, ids: list[list[int]], padding: Padding) -> Float[Tensor, "batch width"]:
    inputs: ModelInputs = prompt_batch(ids, padding).to(backbone.device).with_positions()
    text = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}
    if backbone.is_encoder_decoder:
        states = backbone.model.get_encoder()(**text).last_hidden_state
    else:
        base = getattr(backbone.model, backbone.model.base_model_prefix)
        states = base(**text, position_ids=inputs.position_ids, use_cache=False).last_hidden_state
    rows: Tensor = states.float()
    is_text = inputs.attention_mask[..., None].to(torch.float32)  # (batch, text, 1)
    return (rows * is_text).sum(dim=1) / is_text.sum(dim=1)
