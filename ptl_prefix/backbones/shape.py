"""A backbone of which there are only the architecture's numbers: enough for a dry run.

In: what `conf/backbone/llama_13b.yaml` says. Out: a `sketch()` of shapes, made with no folder, no hub and no network;
and a refusal to load, as there is nothing to be loaded.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import torch
from annotated_types import Ge
from transformers import LlamaConfig, PreTrainedTokenizerBase

from ptl_prefix.backbones.quantization import Quantization
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.errors import BackboneError
from ptl_prefix.settings import settings_from

Size = Annotated[int, Ge(1)]
_EMBEDDED_TOKENIZER = "tiny_gpt2"


class LlamaShape(BackboneSpec):
    """A LLaMA without weights; the numbers have the names that they have in transformers' `LlamaConfig`.

    Args:
        name: What a dry run calls it.
        num_hidden_layers: Layers.
        hidden_size: Width of the embeddings.
        intermediate_size: Width inside the feed-forward.
        num_attention_heads: Heads of queries.
        num_key_value_heads: Heads of keys and values; fewer where they are shared.
        head_dim: Width of one head.
        vocab_size: Rows of the embeddings.
        max_position_embeddings: Positions that it was made for.
        tie_word_embeddings: Whether the output takes the embeddings' weights.
        tokenizer: An embedded backbone's name, a local folder or a hub name, whose tokenizer counts tokens; `None` for
            the embedded one.
        dtype: What it would compute in.
        quantization: How its matrices would be held.
        base_mode: As in `BackboneSpec`.
        gradient_checkpointing: As in `BackboneSpec`.
        device: Where it would be put.
    """

    @settings_from("backbone/llama_13b")
    def __init__(
        self,
        *,
        name: str,
        num_hidden_layers: Size,
        hidden_size: Size,
        intermediate_size: Size,
        num_attention_heads: Size,
        num_key_value_heads: Size,
        head_dim: Size,
        vocab_size: Size,
        max_position_embeddings: Size,
        tie_word_embeddings: bool,
        tokenizer: str | None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"],
        quantization: Quantization | None,
        base_mode: Literal["eval", "train"] | None,
        gradient_checkpointing: bool,
        device: Literal["auto", "cpu", "cuda", "mps"],
    ) -> None:
        super().__init__(
            name=name,
            path=tokenizer or _EMBEDDED_TOKENIZER,  # all that is read is the tokenizer
            revision=None,
            dtype=dtype,
            quantization=quantization,
            base_mode=base_mode,
            gradient_checkpointing=gradient_checkpointing,
            device=device,
        )
        self.tokenizer = tokenizer
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.hidden_size = hidden_size
        self._numbers: dict[str, Any] = {
            "num_hidden_layers": num_hidden_layers,
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_attention_heads": num_attention_heads,
            "num_key_value_heads": num_key_value_heads,
            "head_dim": head_dim,
            "vocab_size": vocab_size,
            "max_position_embeddings": max_position_embeddings,
            "tie_word_embeddings": tie_word_embeddings,
        }

    def problems(self) -> list[str]:
        """Numbers that make no LLaMA, and a tokenizer that is not there."""
        problems = [
            f"`backbone.{key}` must be a multiple of `backbone.{divisor}`, but is {value}, and that is {by}."
            for key, divisor, value, by in (
                ("num_attention_heads", "num_key_value_heads", self.num_attention_heads, self.num_key_value_heads),
                ("hidden_size", "num_attention_heads", self.hidden_size, self.num_attention_heads),
            )
            if value % by
        ]
        try:
            self._tokenizer()
        except BackboneError as error:
            problems.append(f"`backbone.tokenizer`: {error}")
        return problems

    def weight_problems(self) -> list[str]:
        """There are none to load."""
        return [
            f"`backbone` must have weights, but {self.name} is nothing but an architecture's numbers, for "
            "dry_run=true; with weights in a folder or on the hub: backbone=local backbone.path=<folder or hub name>."
        ]

    @property
    def notes(self) -> tuple[str, ...]:
        """Whose tokens were counted, where they are not its own."""
        if self.tokenizer is not None:
            return ()
        return (
            "has no tokenizer here, so tokens are counted by that of the embedded tiny_gpt2, which cuts text into "
            "more; give a folder with its own as `backbone.tokenizer`",
        )

    def load(self, *, on: torch.device | None = None) -> NoReturn:
        """Refuse.

        Raises:
            BackboneError: Always.
        """
        raise BackboneError(" ".join(self.weight_problems()))

    @cached_property
    def _config(self) -> Any:
        return LlamaConfig(**self._numbers)

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        try:
            return super()._tokenizer()
        except (OSError, ValueError) as error:
            where = self.folder or Path(self.path)
            raise BackboneError(
                f"A tokenizer must lie in a local folder or on a hub that can be reached, but '{where}' gave none: "
                f"{str(error).splitlines()[0]}"
            ) from error
