"""The frozen model that every method adapts.

In: a model and its tokenizer, loaded by `spec.py`. Out: `Backbone`, which knows its geometry, its limits and its
identity, computes logits at the positions that need them, and has the prefix slots.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ptl_prefix.artifacts.manifest import BackboneIdentity, Quantization
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.attachment import Attachment
from ptl_prefix.backbones.attention_masks import additive
from ptl_prefix.backbones.attention_sites import SiteGeometry, attention_modules, family_of, geometry_of, layers_of
from ptl_prefix.backbones.checkpointing import Checkpointing
from ptl_prefix.backbones.choose_prompter import choose_prompter
from ptl_prefix.backbones.fingerprints import Fingerprints
from ptl_prefix.backbones.layer_input import LayerInput, left_out, started_at
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding
from ptl_prefix.backbones.prefix_slots import PrefixSlots
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.backbones.quantization import sizes
from ptl_prefix.backbones.sharding import RankMemory, Sharding, local_bytes, memory_per_rank
from ptl_prefix.errors import BackboneError

Positions = (
    Bool[Tensor, "batch written"] | tuple[Int[Tensor, " targets"], Int[Tensor, " targets"]] | tuple[slice, slice]
)
"""Which positions of a batch: a mask, rows and columns, or a rectangle."""

NO_POSITIONS: Positions = (slice(0), slice(0))
"""No position: for a forward pass whose logits are not needed, only what the layers compute."""


class Backbone:
    """A pretrained transformer with frozen parameters, its tokenizer and its prefix slots.

    `model` remains an ordinary transformers model: with no method attached, its forward pass is the library's own.

    Args:
        model: The model; its parameters are frozen here.
        tokenizer: Its tokenizer.
        name: Name of the backbone in run folders and records.
        path: Its origin, as the user wrote it.
        base_mode: Mode of the model while a method is trained: `eval` (no dropout) or `train`.
        gradient_checkpointing: Whether the layers' activations are recomputed in the backward pass.
        quantization: Quantisation of the layers' weight matrices; `None` if they are not quantised.
        fingerprints: Callable that returns the model's fingerprints, called at most once; `None` without weights.
        first_fingerprints: The same, as bundles carry them that have none of the config; `None` without weights.
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
        fingerprints: Callable[[], Fingerprints] | None,
        first_fingerprints: Callable[[], Fingerprints] | None = None,
    ) -> None:
        self.model = model.requires_grad_(False)
        self.model.train(base_mode == "train")
        self.tokenizer = tokenizer
        self.name = name
        self.path = path
        self.base_mode = base_mode
        self.quantization = quantization
        # Before a method can add parameters of its own.
        self._num_parameters, self._num_bytes = sizes(model, quantization)
        self.geometry: dict[str, SiteGeometry] = geometry_of(model.config)
        self.slots = PrefixSlots(model, attention_modules(model, model.config))
        self._checkpointing = Checkpointing(layers_of(model, model.config)) if gradient_checkpointing else None
        self._sharding: Sharding | None = None
        self._fingerprints, self._first_fingerprints = fingerprints, first_fingerprints
        self.attachments: list[Attachment] = []
        """The bundles that are attached; `methods/restore.py` adds and removes them."""

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
        """Width of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def embedding_size(self) -> int:
        """Width of the token embeddings; some models (OPT) project them to `hidden_size` before their layers."""
        weight: Tensor = self.model.get_input_embeddings().weight  # type: ignore[assignment]
        return weight.shape[1]

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the model has an encoder for the source and a decoder for the target."""
        return bool(self.config.is_encoder_decoder)

    @property
    def max_positions(self) -> int | None:
        """Length of the context window in positions, the prefix included; `None` if there is no limit.

        An encoder-decoder has this many positions for the source, and as many again for the target.
        """
        limit = getattr(self.config, "max_position_embeddings", None)
        return None if limit is None else int(limit)

    @property
    def has_hard_position_limit(self) -> bool:
        """Whether positions past `max_positions` cannot be computed at all, as with learned position embeddings."""
        return family_of(self.config).has_learned_positions

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the activations."""
        return self.model.dtype

    @property
    def precision(self) -> str:
        """Dtype of the activations, and the quantisation of the weights if there is one, for records."""
        dtype = str(self.dtype).removeprefix("torch.")
        return dtype if self.quantization is None else f"{dtype} on {self.quantization}"

    @property
    def is_shape_only(self) -> bool:
        """Whether the parameters are on the meta device: shapes without weights, for a dry run."""
        return self.device.type == "meta"

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the model without a method; tied parameters count once."""
        return self._num_parameters

    @property
    def num_bytes(self) -> int:
        """Memory of these parameters in bytes."""
        return self._num_bytes

    @property
    def num_local_bytes(self) -> int:
        """Memory of these parameters in this process, in bytes; of a sharded model, this rank's shard."""
        return local_bytes(self.model)

    def memory_per_rank(self, num_ranks: int) -> RankMemory:
        """Memory of these parameters on each rank, if they were sharded over `num_ranks`."""
        return memory_per_rank(self.model, layers_of(self.model, self.config), num_ranks)

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are sharded, so that all ranks must run every forward pass together."""
        return self._sharding is not None

    @cached_property
    def identity(self) -> BackboneIdentity:
        """Name, family and fingerprints, by which a bundle recognises the backbone that it was trained on.

        Raises:
            BackboneError: When the backbone is a shape without weights.
        """
        if self._fingerprints is None:
            raise BackboneError(f"A backbone must have weights to be identified, but {self.name} has none.")
        return self._identity(self._fingerprints())

    def identity_like(self, other: BackboneIdentity) -> BackboneIdentity:
        """The identity to compare with another one: with fingerprints of its kind, as the first bundles have others."""
        first = self._first_fingerprints if other.config_fingerprint is None else None
        return self.identity if first is None else self._identity(first())

    def _identity(self, fingerprints: Fingerprints) -> BackboneIdentity:
        own: dict[str, Any] = {"name": self.name, "path": self.path, "quantization": self.quantization}
        return BackboneIdentity(family=self.family, **own, **fingerprints._asdict())

    @property
    def pad_id(self) -> int:
        """The padding token's id, or that of the end-of-text token; no query attends to padding."""
        pad_id = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad_id is None else pad_id)

    def padding(self, prompter: Prompter) -> Padding:
        """The padding of batches that hold a prompter's ids."""
        return Padding(self.pad_id, prompter.decoder_start_ids)

    @cached_property
    def decoder_start_id(self) -> int | None:
        """The id that the decoder of an encoder-decoder starts with; `None` for a decoder-only backbone.

        Raises:
            BackboneError: When neither config of an encoder-decoder states it.
        """
        if not self.is_encoder_decoder:
            return None
        for config in (self.config, self.model.generation_config):
            if (start := getattr(config, "decoder_start_token_id", None)) is not None:
                return int(start)
        raise BackboneError(
            f"An encoder-decoder must have a `decoder_start_token_id`, but {self.name} has none; "
            "write it into its config.json."
        )

    def prompter(self, prompt: PromptFormat) -> Prompter:
        """The prompter that encodes sources and targets for this backbone.

        Raises:
            ValueError: When tokenizer or backbone do not fit the format; see `choose_prompter`.
            BackboneError: When the format's ids are no rows of the embeddings.
        """
        start_id, num_ids = self.decoder_start_id, self.config.vocab_size
        return choose_prompter(self.tokenizer, prompt, decoder_start_id=start_id, num_ids=num_ids, of=self.name)

    def without_checkpointing(self) -> AbstractContextManager[None]:
        """Inside, activations are kept although `gradient_checkpointing` is on."""
        return nullcontext() if self._checkpointing is None else self._checkpointing.off()

    def shard(self, device: torch.device) -> None:
        """Shard the weights, which every rank has loaded, over all ranks, and move this rank's shard to `device`."""
        self._sharding = Sharding(self.model, layers_of(self.model, self.config), device)

    def unsharded_ends(self) -> AbstractContextManager[None]:
        """Inside, the weights outside the layers (embeddings, last norm, LM head) are unsharded; all ranks enter."""
        return nullcontext() if self._sharding is None else self._sharding.unsharded_ends()

    def position_budget(self, *, reserved: int, max_new_tokens: int) -> int | None:
        """The largest number of prompt tokens that fits the context window; `None` if there is no limit.

        Args:
            reserved: Positions that a method occupies beside the prompt.
            max_new_tokens: Number of tokens to generate.
        """
        if self.max_positions is None:
            return None
        return self.max_positions - reserved - (0 if self.is_encoder_decoder else max_new_tokens)

    def embed(self, ids: Int[Tensor, "*text"]) -> Float[Tensor, "*text width"]:
        """The embeddings of tokens as the layers receive them, scaled in families that scale them (Gemma)."""
        with self.unsharded_ends():
            embeddings: Tensor = self.model.get_input_embeddings()(ids.to(self.device))
        return embeddings

    def input_arguments(self, inputs: ModelInputs) -> dict[str, Any]:
        """The text and its mask as arguments of the model's forward: ids, or embeddings if there are prompt rows."""
        if inputs.layout is not None:
            masks: Any = inputs.layout.masks(self.config)
            if self.config._attn_implementation == "eager":
                masks = additive(masks, self.dtype)
            return {"input_ids": inputs.input_ids, "attention_mask": masks}
        if inputs.prompt_rows is None:
            return {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}
        text = self.embed(inputs.input_ids)
        rows = inputs.prompt_rows.to(text).expand(inputs.num_rows, -1, -1)
        return {
            "inputs_embeds": torch.cat([rows, text], dim=1),  # (batch, prompt + text, width)
            "attention_mask": nn.functional.pad(inputs.attention_mask, (rows.shape[1], 0), value=1),
        }

    def logits(self, inputs: ModelInputs) -> Float[Tensor, "batch written vocabulary"]:
        """Next-token logits at every position of the target side (decoder-only: of the whole text)."""
        return self._forward(inputs)

    def target_logits(self, inputs: ModelInputs, positions: Positions) -> Float[Tensor, "*targets vocabulary"]:
        """Next-token logits at some positions only: (targets, vocabulary) for a mask or for indices.

        The LM head is most of a small model's work, and the logits of the source are never used.
        """
        with self.lm_head_at(positions):
            return self._forward(inputs)

    @property
    def has_plain_head(self) -> bool:
        """Whether logits are the LM head's output, and nothing in it is trained or sharded.

        Other families scale or bound the output, or add a bias to it.
        """
        changes = ("final_logit_softcapping", "logit_scale", "logits_scaling")
        if self.is_encoder_decoder or self.is_sharded or any(getattr(self.config, name, None) for name in changes):
            return False
        return not any(parameter.requires_grad for parameter in self.head.parameters())

    @property
    def head(self) -> nn.Module:
        """The LM head."""
        head: nn.Module = self.model.get_output_embeddings()
        return head

    def target_states(self, inputs: ModelInputs, positions: Positions) -> Float[Tensor, "*targets width"]:
        """The hidden states that the LM head reads at some positions; it computes next to nothing itself."""
        found: list[Tensor] = []

        def keep(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            found.append(arguments[0][positions])
            return (found[0][:1].detach(), *arguments[1:])

        hook = self.head.register_forward_pre_hook(keep)
        try:
            self._forward(inputs)
        finally:
            hook.remove()
        return found[0]

    def layer_input(self, layer: int, inputs: ModelInputs) -> LayerInput:
        """What a layer of a decoder-only backbone reads; neither it nor the layers above it are computed."""
        found: list[Tensor] = []
        layers = layers_of(self.model, self.config)
        hook = layers[layer].register_forward_pre_hook(lambda _, arguments: found.append(arguments[0]))
        try:
            with left_out(layers[layer:]):
                self.target_logits(inputs, NO_POSITIONS)
        finally:
            hook.remove()
        return LayerInput(layer, found[0])

    def _forward(self, inputs: ModelInputs) -> Tensor:
        if inputs.position_ids is None:
            inputs = inputs.with_positions()
        arguments: dict[str, Any] = (
            {"decoder_input_ids": inputs.decoder_input_ids, "decoder_attention_mask": inputs.decoder_attention_mask}
            if self.is_encoder_decoder
            else {"position_ids": inputs.position_ids}
        )
        with started_at(layers_of(self.model, self.config), inputs.layer_input):
            output = self.model(**self.input_arguments(inputs), use_cache=False, **arguments)
        logits: Tensor = output.logits
        return logits

    @contextmanager
    def lm_head_at(self, positions: Positions) -> Iterator[None]:
        """Inside, the LM head receives only some positions; what a family computes around its head is unchanged."""
        hook = self.head.register_forward_pre_hook(lambda _, arguments: (arguments[0][positions], *arguments[1:]))
        try:
            yield
        finally:
            hook.remove()
