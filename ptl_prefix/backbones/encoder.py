"""An encoder that reads texts whole, such as a BERT: not adapted, and nothing is generated with it.

In: a folder with a model and its tokenizer. Out: for each text the states of its tokens in one layer, without those
of the special tokens. Nothing is downloaded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ptl_prefix.errors import BackboneError

_READS_SPACES = ("roberta", "xlm-roberta", "longformer")
"""Families whose tokens hold the space before a word: the first word gets one, too."""


class Encoder:
    """A model that turns a text into one state a token.

    Args:
        folder: Where it lies.

    Raises:
        BackboneError: It cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
            spaces = {"add_prefix_space": True} if self.config.model_type in _READS_SPACES else {}
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, **spaces)
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError, KeyError) as error:
            law = "An encoder must be a folder with a model and its tokenizer"
            raise BackboneError(f"{law}, but '{folder}' cannot be read as one: {error}") from error
        self._model: Any = model.eval()

    @property
    def num_layers(self) -> int:
        """Layers, the embeddings not counted."""
        return int(self.config.num_hidden_layers)

    def states(self, texts: Sequence[str], *, layer: int, batch_size: int = 32) -> list[Float[Tensor, "_ width"]]:
        """For each text the states of its tokens behind `layer` layers; of an empty text there are none."""
        starts = range(0, len(texts), batch_size)
        return [row for start in starts for row in self._batch_states(texts[start : start + batch_size], layer)]

    @torch.inference_mode()
    def _batch_states(self, texts: Sequence[str], layer: int) -> list[Tensor]:
        read = self._tokenizer(
            [text.strip() for text in texts],
            padding=True,
            truncation=True,
            # RoBERTa's positions begin at 2, so that it has room for two tokens less than it has positions.
            max_length=int(self.config.max_position_embeddings) - 2,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        is_text = read.pop("special_tokens_mask") == 0
        # Of the read text, the mask of attention is what keeps padding out; families differ in what else they take.
        inputs = {name: read[name] for name in ("input_ids", "attention_mask")}
        hidden = self._model(**inputs, output_hidden_states=True).hidden_states[layer]
        return [row[mask] for row, mask in zip(hidden, is_text, strict=True)]
