"""The frozen model: what every method adapts and nobody changes.

In: a model and its tokenizer, by way of `spec.py`. Out: `Backbone`, which knows its geometry, its limits and its
identity, computes logits where they are needed, and lends its prefix slots.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ptl_prefix.artifacts.bundle import BackboneIdentity
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.attention_sites import SiteGeometry, attention_modules, family_of, geometry_of, layers_of
from ptl_prefix.backbones.checkpointing import Checkpointing
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prefix_attention import PrefixSlots
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.backbones.quantization import Quantization, sizes
from ptl_prefix.backbones.sharding import RankMemory, Sharding, local_bytes, memory_per_rank
from ptl_prefix.errors import BackboneError

Positions = (
    Bool[Tensor, "batch written"] | tuple[Int[Tensor, " targets"], Int[Tensor, " targets"]] | tuple[slice, slice]
)
"""Which positions of a batch: a mask, rows and columns, or a rectangle."""

NO_POSITIONS: Positions = (slice(0), slice(0))
"""No position: for a forward that is made for what the layers see, whose logits nobody wants."""


class Backbone:
    """A pretrained transformer with frozen parameters, its tokenizer and its prefix slots.

    `model` stays an ordinary transformers model: with nothing attached, its forward is the library's own.

    Args:
        model: The model; its parameters are frozen here.
        tokenizer: Its tokenizer.
        name: What runs and records call it.
        path: Where it came from, as the user wrote it.
        base_mode: `eval`: the model's own dropout stays off while a method trains | `train`.
        gradient_checkpointing: Whether the layers' activations are computed again in the backward pass, not kept.
        quantization: How its matrices were quantised; of a sketch, how they would be.
        fingerprints: Callable that gives the fingerprints of the weights and of the tokenizer; called at most once.
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        path: str,
        base_mode: str,
        gradient_checkpointing: bool = False,
        quantization: Quantization | None = None,
        fingerprints: Any,
    ) -> None:
        self.model = model.requires_grad_(False)
        self.model.train(base_mode == "train")
        self.tokenizer = tokenizer
        self.name = name
        self.path = path
        self.base_mode = base_mode
        self.quantization = quantization
        # Once, of the bare model: a method may put parameters of its own into it.
        self._num_parameters, self._num_bytes = sizes(model, quantization)
        self.geometry: dict[str, SiteGeometry] = geometry_of(model.config)
        self.slots = PrefixSlots(model, attention_modules(model, model.config))
        self._checkpointing = Checkpointing(layers_of(model, model.config)) if gradient_checkpointing else None
        self._sharding: Sharding | None = None
        self._fingerprints = fingerprints
        self.adaptations: list[Any] = []
        """The bundles at work here; `methods/restore.py` keeps the list."""

    @property
    def config(self) -> Any:
        """The model's transformers config."""
        return self.model.config

    @property
    def family(self) -> str:
        """The model's type, as transformers names it."""
        return str(self.config.model_type)

    @property
    def hidden_size(self) -> int:
        """Width of the model's embeddings."""
        return int(self.config.hidden_size)

    @property
    def embedding_size(self) -> int:
        """Width of one token's embedding; some models (OPT) widen it before their layers."""
        weight: Tensor = self.model.get_input_embeddings().weight  # type: ignore[assignment]
        return weight.shape[1]

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether sources are read by an encoder of their own."""
        return bool(self.config.is_encoder_decoder)

    @property
    def max_positions(self) -> int | None:
        """Positions that the model was made for, those a prefix takes included; `None` where there is no limit.

        An encoder-decoder has so many for what it reads, and as many again for what it writes.
        """
        limit = getattr(self.config, "max_position_embeddings", None)
        return None if limit is None else int(limit)

    @property
    def has_hard_position_limit(self) -> bool:
        """Whether a position past `max_positions` cannot be computed at all."""
        return family_of(self.config).has_learned_positions

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return self.model.dtype

    @property
    def precision(self) -> str:
        """What the model computes in, and in what its matrices are held where that is something else."""
        dtype = str(self.dtype).removeprefix("torch.")
        return dtype if self.quantization is None else f"{dtype} on {self.quantization}"

    @property
    def is_shape_only(self) -> bool:
        """Whether this has shapes but no weights, as a dry run needs it."""
        return self.device.type == "meta"

    @property
    def num_parameters(self) -> int:
        """Parameters of the bare model, tied ones counted once."""
        return self._num_parameters

    @property
    def num_bytes(self) -> int:
        """Memory that they take."""
        return self._num_bytes

    @property
    def num_local_bytes(self) -> int:
        """Memory that they take in this process."""
        return local_bytes(self.model)

    def memory_per_rank(self, num_ranks: int) -> RankMemory:
        """Memory that they would take in each of so many processes, if they were divided among them."""
        return memory_per_rank(self.model, layers_of(self.model, self.config), num_ranks)

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are divided among ranks, so that all of them must run every forward together."""
        return self._sharding is not None

    @cached_property
    def identity(self) -> BackboneIdentity:
        """What a bundle says of the backbone that it was made for."""
        weights, tokenizer = self._fingerprints()
        return BackboneIdentity(
            name=self.name,
            path=self.path,
            family=self.family,
            weights_fingerprint=weights,
            tokenizer_fingerprint=tokenizer,
            quantization=self.quantization,
        )

    @property
    def pad_id(self) -> int:
        """The id that fills a batch's gaps; nobody attends to it."""
        pad_id = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad_id is None else pad_id)

    @cached_property
    def decoder_start_id(self) -> int | None:
        """The id that an encoder-decoder's text starts with; `None` for a decoder-only backbone.

        Raises:
            BackboneError: An encoder-decoder whose files do not say.
        """
        if not self.is_encoder_decoder:
            return None
        for config in (self.config, self.model.generation_config):
            if (start := getattr(config, "decoder_start_token_id", None)) is not None:
                return int(start)
        raise BackboneError(
            f"An encoder-decoder must say what its text starts with, but {self.name} does not; "
            "write `decoder_start_token_id` into its config.json."
        )

    def prompter(self, prompt: PromptFormat) -> Prompter:
        """Turns sources and targets into this backbone's ids.

        Raises:
            ValueError: The tokenizer lacks a special id that the format needs, or nothing would end a target.
        """
        return Prompter(self.tokenizer, prompt, decoder_start_id=self.decoder_start_id)

    def without_checkpointing(self) -> AbstractContextManager[None]:
        """Inside, activations are kept even where `gradient_checkpointing` is on."""
        return nullcontext() if self._checkpointing is None else self._checkpointing.off()

    def shard(self, device: torch.device) -> None:
        """Divide the weights among all ranks, each of which has loaded them, and put each one's share on its device."""
        self._sharding = Sharding(self.model, layers_of(self.model, self.config), device)

    def unsharded_ends(self) -> AbstractContextManager[None]:
        """Inside, the weights outside of the layers are whole also where the model is sharded."""
        return nullcontext() if self._sharding is None else self._sharding.unsharded_ends()

    def position_budget(self, *, taken: int, max_new_tokens: int) -> int | None:
        """The longest prompt that leaves room for what is written; `None` where there is no limit.

        Args:
            taken: Positions that a method takes from what is read.
            max_new_tokens: Tokens to be written.
        """
        if self.max_positions is None:
            return None
        return self.max_positions - taken - (0 if self.is_encoder_decoder else max_new_tokens)

    def embed(self, ids: Int[Tensor, "*text"]) -> Float[Tensor, "*text width"]:
        """What the layers are given for tokens, as large as they are given it: some families scale their embeddings."""
        with self.unsharded_ends():
            embeddings: Tensor = self.model.get_input_embeddings()(ids.to(self.device))
        return embeddings

    def input_arguments(self, inputs: ModelInputs) -> dict[str, Tensor]:
        """What is read, by the names of the model's own arguments: ids, or embeddings where rows stand before them."""
        if inputs.prompt_rows is None:
            return {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}
        text = self.embed(inputs.input_ids)
        rows = inputs.prompt_rows.to(text).expand(inputs.num_rows, -1, -1)
        return {
            "inputs_embeds": torch.cat([rows, text], dim=1),  # (batch, prompt + text, width)
            "attention_mask": nn.functional.pad(inputs.attention_mask, (rows.shape[1], 0), value=1),
        }

    def logits(self, inputs: ModelInputs) -> Float[Tensor, "batch written vocabulary"]:
        """Next-token logits at every position of the written text."""
        return self._forward(inputs)

    def target_logits(self, inputs: ModelInputs, wanted: Positions) -> Float[Tensor, "*targets vocabulary"]:
        """Next-token logits at the wanted positions only: (targets, vocabulary) for a mask or for indices.

        The head is most of a small model's work; a source's logits are never used.
        """
        with self._head_sees_only(wanted):
            return self._forward(inputs)

    def _forward(self, inputs: ModelInputs) -> Tensor:
        if inputs.position_ids is None:
            inputs = inputs.with_positions()
        own: dict[str, Any] = (
            {"decoder_input_ids": inputs.decoder_input_ids, "decoder_attention_mask": inputs.decoder_attention_mask}
            if self.is_encoder_decoder
            else {"position_ids": inputs.position_ids}
        )
        output = self.model(**self.read(inputs), use_cache=False, **own)
        logits: Tensor = output.logits
        return logits

    @contextmanager
    def _head_sees_only(self, wanted: Positions) -> Iterator[None]:
        """Hand the output embedding only some rows, so that what a family does around its head still happens."""
        head: nn.Module = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, arguments: (arguments[0][wanted], *arguments[1:]))
        try:
            yield
        finally:
            hook.remove()
