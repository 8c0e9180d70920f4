"""Prompt tuning (Lester et al., 2021): trained embeddings that a frozen model reads before the text.

In: a backbone, once; a batch, per forward. Out: in a decoder-only backbone filled slots and the text's positions; in an
encoder-decoder the rows, for its encoder to read. What is exported is the rows alone.

Nothing of the text reaches a prompt that stands before it in a causal model, so its keys and values are the same for
every row of a batch: the frozen layers compute them once per step, and the text attends to them as to any prefix. An
encoder lets the prompt see the text, so there the rows are read with each text, as its first tokens.

Positions: the rows have 0 to `prompt_length` - 1 and the text follows, also in an encoder with learned positions
(BART); in one with relative positions (T5) they are the text's left neighbours. What a decoder writes is never shifted.

Differences from the authors' code (github.com/google-research/prompt-tuning): models are not trained further on
language modelling first (LM adaptation); the optimizer is AdamW rather than Adafactor, hence another learning rate;
where attention has a window, a causal backbone's prompt never falls out of it.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.observation import keys_values_of_embeddings
from ptl_prefix.backbones.prefix_states import PrefixStates, layers_of_table
from ptl_prefix.errors import DataError
from ptl_prefix.methods.method import Method, Resource
from ptl_prefix.methods.prefix_start import word_ids
from ptl_prefix.methods.prompt_start import label_embeddings, sampled_embeddings
from ptl_prefix.settings import settings_from


class PromptTuning(Method):
    """Gives a backbone `prompt_length` trained embeddings to read before every text.

    Args:
        name: What runs and records call it.
        default_lr: The learning rate where a run chooses none.
        match_parameters: Numbers to store, for which the length is chosen; `None`: `prompt_length` says.
        prompt_length: Rows of the prompt.
        init: `vocabulary` draws the embeddings of tokens among the most common ones; `random` draws evenly from
            [-0.5, 0.5]; `text` takes the embeddings of words; `labels` those of a task's labels, and goes on as
            `vocabulary` where there are fewer than rows.
        init_text: The words of `text`; repeated where they are fewer than the rows.
        init_labels: The labels of `labels`; `None`: those of the task.
    """

    kind = "prompt_tuning"

    @settings_from("method/prompt_tuning")
    def __init__(
        self,
        *,
        name: str,
        default_lr: Annotated[float, Gt(0)],
        match_parameters: Annotated[int, Ge(1)] | None,
        prompt_length: Annotated[int, Ge(1)],
        init: Literal["vocabulary", "random", "text", "labels"],
        init_text: str | None,
        init_labels: Sequence[str] | None,
    ) -> None:
        super().__init__(name=name, default_lr=default_lr, match_parameters=match_parameters)
        self.prompt_length = prompt_length
        self.init = init
        self.init_text = init_text
        self.init_labels = init_labels
        self.rows: nn.Parameter | None
        self.register_parameter("rows", None)
        self._task_labels: Callable[[], Sequence[str] | None] = lambda: None
        self._visible = True

    def provide_labels(self, label_set: Callable[[], Sequence[str] | None]) -> None:
        """Keep them for `init=labels`; a task may have to open its data for them."""
        self._task_labels = label_set

    @property
    def size_setting(self) -> str:
        """Its length."""
        return "prompt_length"

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """The slots, or what an encoder reads."""
        return frozenset({"encoder input" if backbone.is_encoder_decoder else "attention slots"})

    def problems(self, backbone: Backbone) -> list[str]:
        """Lengths that leave no room for text, and starts that lack their words or their labels."""
        misfits = []
        limit = backbone.max_positions
        if limit is not None and self.prompt_length >= limit:
            misfits.append(
                f"`method.prompt_length` must leave room for text in the {limit} positions of {backbone.name}, "
                f"but is {self.prompt_length}."
            )
        return misfits + self._start_misfits()

    def _start_misfits(self) -> list[str]:
        misfits = [
            f"`method.init_{init}` must be given with `method.init={init}` only, but init is {self.init}."
            for init, value in (("text", self.init_text), ("labels", self.init_labels))
            if value is not None and self.init != init
        ]
        if self.init == "text" and not (self.init_text or "").strip():
            misfits.append(f"`method.init_text` must have words to start from, but is {self.init_text!r}.")
        return misfits + (self._label_misfits() if self.init == "labels" else [])

    def _label_misfits(self) -> list[str]:
        try:
            labels = self._labels()
        except DataError as error:
            return [f"`method.init=labels` needs the task's labels, but: {error}"]
        if not labels:
            return [
                "`method.init=labels` needs labels to start from, but the task is none with a closed set of targets; "
                "give `method.init_labels`, or choose another start."
            ]
        if not all(label.strip() for label in labels):
            return [f"`method.init_labels` must each have words to start from, but are {list(labels)}."]
        return []

    def _labels(self) -> Sequence[str]:
        return self.init_labels or self._task_labels() or ()

    def _attach(self, backbone: Backbone) -> None:
        if self.rows is None:
            self.rows = nn.Parameter(self._start(backbone).float().to(backbone.device))
        if not backbone.is_encoder_decoder:
            backbone.slots.acquire()

    def _detach(self) -> None:
        if not self.backbone.is_encoder_decoder:
            self.backbone.slots.release()

    @torch.no_grad()
    def _start(self, backbone: Backbone) -> Tensor:
        """What the rows begin with, (prompt_length, width)."""
        if self.init == "random":
            return torch.rand(self.prompt_length, backbone.embedding_size) - 0.5
        if self.init == "text":
            assert self.init_text is not None
            ids = word_ids(backbone, self.init_text, self.prompt_length)
            self.notes.append(f"starts from the words {backbone.tokenizer.decode(ids)!r}")
            return backbone.embed(torch.tensor(ids))
        sampled = sampled_embeddings(backbone, self.prompt_length)
        if self.init == "vocabulary":
            return sampled
        return self._start_from_labels(backbone, sampled)

    def _start_from_labels(self, backbone: Backbone, others: Tensor) -> Tensor:
        labels = self._labels()
        taken = labels[: self.prompt_length]
        left_out = len(labels) - len(taken)
        rest = f"; {left_out} more have no row, choose a longer prompt for them" if left_out else ""
        self.notes.append(f"starts from the labels {', '.join(map(repr, taken))}{rest}")
        return torch.cat([label_embeddings(backbone, taken), others[len(taken) :]])

    def direct_weight_access(self, backbone: Backbone) -> str | None:
        """In a decoder-only backbone it calls a part of the model, for the keys and values inside the layers."""
        return None if backbone.is_encoder_decoder else "takes keys and values out of the layers"

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Hand an encoder the rows; else fill the slots with what the layers make of them, and shift the text."""
        backbone, rows = self.backbone, self._trained_rows
        if backbone.is_encoder_decoder:
            return inputs.replace(prompt_rows=rows if self._visible else None)
        states = PrefixStates(
            {"decoder_self": tuple(layers_of_table(keys_values_of_embeddings(backbone, rows)))},
            torch.tensor([self.prompt_length]),
        )
        states = states if self._visible else states.invisible()
        backbone.slots.fill(states.to(device=backbone.device, dtype=backbone.dtype))
        return inputs.with_positions(self.prompt_length)

    def neutralize(self) -> None:
        """Hide the prompt from every query; leave it out of what an encoder reads, which then counts from 0."""
        self._visible = False

    def reserved_positions(self, backbone: Backbone) -> int:
        """The prompt's length: of what is read, never of what an encoder-decoder writes."""
        return self.prompt_length

    @property
    def num_stored(self) -> int:
        """The rows: prompt_length x width."""
        return self._trained_rows.numel()

    @property
    def _trained_rows(self) -> Tensor:
        assert self.rows is not None
        return self.rows

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The rows, float32: (prompt_length, width)."""
        return {"prompt_length": self.prompt_length}, {"rows": self._trained_rows.detach().cpu().clone()}

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """The prompt that a bundle holds."""
        method = cls(name=bundle.manifest.method, init="random", **bundle.manifest.settings)
        wanted, rows = (method.prompt_length, backbone.embedding_size), bundle.tensors["rows"]
        if rows.shape != wanted:
            raise ValueError(f"The rows must be of the shape {wanted}, but are of {tuple(rows.shape)}.")
        method.rows = nn.Parameter(rows.float().to(backbone.device))
        return method.attach(backbone).eval()
