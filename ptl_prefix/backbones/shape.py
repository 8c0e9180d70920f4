"""A LLaMA's shape without weights: enough for a dry run.

In: the numbers of an architecture, as in `conf/backbone/llama_13b.yaml`. Out: `LlamaShape`, a source of config and
tokenizer that needs no folder, hub or network, and `LlamaSpec`, the settings of a backbone with this source.
"""

from typing import Annotated, Any, Literal

from annotated_types import Ge
from transformers import LlamaConfig, PreTrainedTokenizerBase

from ptl_prefix.artifacts.manifest import Quantization
from ptl_prefix.backbones.choose_source import pretrained_files
from ptl_prefix.backbones.source import ShapeSource
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.errors import BackboneError
from ptl_prefix.settings import settings_from

Size = Annotated[int, Ge(1)]
_EMBEDDED_TOKENIZER = "tiny_gpt2"
_BORROWED_TOKENIZER = (
    "has no tokenizer here, so tokens are counted with that of the embedded tiny_gpt2, which splits text into more "
    "tokens; give a folder with its own as `backbone.tokenizer`"
)


class LlamaShape(ShapeSource):
    """A LLaMA's config, from its numbers, and a tokenizer; see `ShapeSource`.

    Args:
        tokenizer: Name of an embedded backbone, local folder, or name on the hub, whose tokenizer is used; `None` is
            the tokenizer of the embedded tiny_gpt2.
        numbers: Keyword arguments of transformers' `LlamaConfig`.
    """

    is_local = True

    def __init__(self, *, tokenizer: str | None, **numbers: Any) -> None:
        self._numbers = numbers
        self._tokenizer_files = pretrained_files(tokenizer or _EMBEDDED_TOKENIZER)
        self.path = self._tokenizer_files.path
        self._has_tokenizer = tokenizer is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user of a dry run; see `ShapeSource.notes`."""
        return () if self._has_tokenizer else (_BORROWED_TOKENIZER,)

    @property
    def config(self) -> Any:
        """The transformers config."""
        return LlamaConfig(**self._numbers)

    def problems(self) -> list[str]:
        """Numbers that do not make a LLaMA, and a tokenizer that cannot be read."""
        problems = [
            f"`backbone.{key}` must be a multiple of `backbone.{divisor}`, but is {self._numbers[key]}, and that is "
            f"{self._numbers[divisor]}."
            for key, divisor in (
                ("num_attention_heads", "num_key_value_heads"),
                ("hidden_size", "num_attention_heads"),
            )
            if self._numbers[key] % self._numbers[divisor]
        ]
        try:
            self.tokenizer()
        except BackboneError as error:
            problems.append(f"`backbone.tokenizer`: {error}")
        return problems

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that counts tokens.

        Raises:
            BackboneError: When it cannot be read, has no end-of-text token, or knows no words.
        """
        return self._tokenizer_files.tokenizer()


class LlamaSpec(BackboneSpec):
    """The settings of a LLaMA without weights, by the names of transformers' `LlamaConfig`.

    Args:
        name: Name of the backbone in a dry run.
        num_hidden_layers: Number of layers.
        hidden_size: Width of the embeddings.
        intermediate_size: Width inside the feed-forward layers.
        num_attention_heads: Number of query heads.
        num_key_value_heads: Number of key and value heads; fewer than query heads in grouped-query attention.
        head_dim: Width of one head.
        vocab_size: Rows of the embeddings.
        max_position_embeddings: Length of the context window in tokens.
        tie_word_embeddings: Whether the LM head shares the weights of the embeddings.
        tokenizer: Name of an embedded backbone, local folder, or name on the hub, whose tokenizer counts tokens; `None`
            is the tokenizer of the embedded tiny_gpt2.
        dtype: Dtype that its weights would have.
        quantization: Quantization that its matrices would have; `None` is none.
        base_mode: Mode of the frozen backbone: `eval` turns its dropout off; `None` is that of the method's paper.
        gradient_checkpointing: Whether activations are computed again in the backward pass: less memory, more time.
        device: Device that it would be put on; `auto` takes a GPU if there is one.
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
        shape = LlamaShape(
            tokenizer=tokenizer,
            num_hidden_layers=num_hidden_layers,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_attention_heads=num_attention_heads,
            num_key_value_heads=num_key_value_heads,
            head_dim=head_dim,
            vocab_size=vocab_size,
            max_position_embeddings=max_position_embeddings,
            tie_word_embeddings=tie_word_embeddings,
        )
        self._set_source(shape, weights=None)
        self._set_holding(name, dtype, quantization, base_mode, gradient_checkpointing, device)
