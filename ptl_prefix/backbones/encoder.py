"""A text encoder such as BERT, for metrics that compare hidden states; it is not a backbone.

In: a local folder with a model and its tokenizer. Out: for each text the hidden states of its tokens in one layer,
special tokens left out. Nothing is downloaded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ptl_prefix.artifacts.lfs_pointer import lfs_pointer_fact
from ptl_prefix.backbones.model_folder import has_adapter
from ptl_prefix.backbones.tokenizer_checks import knows_words
from ptl_prefix.errors import BackboneError

_NEEDS_LEADING_SPACE = ("roberta", "xlm-roberta", "longformer")
"""Families whose tokens include the space before a word: the first word must get one as well."""


def _file_fact(folder: Path) -> str | None:
    """The first file of a folder that would be read as something else than it is, with the reason."""
    if has_adapter(folder):
        return f"'{folder}' has an adapter_config.json beside its weights: remove the adapter, or merge it"
    facts = ((path, lfs_pointer_fact(path)) for path in sorted(folder.glob("*")))
    return next((f"'{path}' {fact}" for path, fact in facts if fact), None)


class Encoder:
    """A model that gives one hidden state per token of a text.

    Args:
        folder: Local folder with the model and its tokenizer.

    Raises:
        BackboneError: When the folder cannot be read, lacks weights, or has a tokenizer that knows no words.
    """

    def __init__(self, folder: Path) -> None:
        law = "An encoder must be a folder with a model and its tokenizer"
        if fact := _file_fact(folder):
            raise BackboneError(f"{law}, but {fact}.")
        try:
            self.config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
            spaces = {"add_prefix_space": True} if self.config.model_type in _NEEDS_LEADING_SPACE else {}
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, **spaces)
            loaded: Any = AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # damaged files raise many types of errors
            raise BackboneError(f"{law}, but '{folder}' cannot be read as one: {error}") from error
        model, found = loaded
        # A head of the pretraining task, which no hidden state depends on, may be missing.
        if missing := sorted(name for name in found["missing_keys"] if not name.startswith("pooler.")):
            raise BackboneError(f"{law}, but '{folder}' lacks {len(missing)} weights, {missing[0]} among them; get it.")
        if not knows_words(self._tokenizer):
            raise BackboneError(f"{law}, but the tokenizer of '{folder}' knows no ordinary word; get its files.")
        self._model: Any = model.eval()

    @property
    def num_layers(self) -> int:
        """Number of layers, the embeddings not counted."""
        return int(self.config.num_hidden_layers)

    def states(self, texts: Sequence[str], *, layer: int, batch_size: int = 32) -> list[Float[Tensor, "_ width"]]:
        """The hidden states of each text's tokens.

        Args:
            texts: The texts; an empty one has no tokens, so (0, width).
            layer: Number of layers applied; 0 gives the embeddings.
            batch_size: Texts in one forward pass.
        """
        starts = range(0, len(texts), batch_size)
        return [row for start in starts for row in self._batch_states(texts[start : start + batch_size], layer)]

    @torch.inference_mode()
    def _batch_states(self, texts: Sequence[str], layer: int) -> list[Tensor]:
        read = self._tokenizer(
            [text.strip() for text in texts],
            padding=True,
            truncation=True,
            # RoBERTa's positions start at 2, so it reads two tokens fewer than it has position embeddings.
            max_length=int(self.config.max_position_embeddings) - 2,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        is_text = read.pop("special_tokens_mask") == 0
        # Families differ in the other arguments that they accept; these two suffice to mask padding.
        inputs = {name: read[name] for name in ("input_ids", "attention_mask")}
        hidden = self._model(**inputs, output_hidden_states=True).hidden_states[layer]
        return [row[mask] for row, mask in zip(hidden, is_text, strict=True)]
