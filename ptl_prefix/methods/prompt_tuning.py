"""Prompt tuning (Lester et al., 2021): trainable embeddings that a frozen model reads before the text.

In: a backbone, once; a batch, per forward pass. Out: in a decoder-only backbone, filled slots and the text's positions;
in an encoder-decoder, prompt rows that its encoder reads. A bundle holds the rows.

In a causal model no text reaches a prompt before it, so the prompt's keys and values are the same for every row of a
batch: the frozen layers compute them once per step, and the text attends to them as to a prefix. In an encoder the
prompt sees the text, so the rows are read with each text, as its first tokens.

Positions: the rows have positions 0 to `prompt_length` - 1 and the text follows, also in an encoder with learned
positions (BART); with relative positions (T5) they are the text's left neighbours. Positions of a decoder's target are
never shifted.

Differences from the authors' code (github.com/google-research/prompt-tuning): models are not trained further on
language modelling first (LM adaptation); the optimizer is AdamW rather than Adafactor, hence another learning rate;
with sliding-window attention, a prompt stays visible in a causal backbone.
"""

from collections.abc import Sequence
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
from ptl_prefix.methods.prompt_start import label_embeddings, sampled_embeddings
from ptl_prefix.methods.start_inputs import StartInputs
from ptl_prefix.methods.start_texts import missing_text_problem, word_ids, words_note
from ptl_prefix.settings import settings_from


class PromptTuning(Method):
    """Puts `prompt_length` trainable embeddings before every text.

    Args:
        name: Name of the method in run folders and records.
        default_lr: Learning rate of a run that sets none.
        match_parameters: Number of stored parameters to come closest to, by choosing the length; `None` uses
            `prompt_length`.
        prompt_length: Number of rows (virtual tokens).
        init: Initial values: `vocabulary` samples embeddings of the most common tokens; `random` is uniform in
            [-0.5, 0.5]; `text` takes the embeddings of words; `labels` those of the task's labels, and samples as
            `vocabulary` if there are fewer labels than rows.
        init_text: Words for `init=text`, repeated if they have fewer tokens than there are rows; `None` is the task's
            document, or its instruction if it has no document.
        init_labels: Labels for `init=labels`; `None` is the task's labels.
    """

    kind = "prompt_tuning"
    mixes_rows = True

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
        self._start_inputs = StartInputs()
        self._visible = True

    def provide_start_inputs(self, inputs: StartInputs) -> None:
        """Keep the instruction for `init=text`, and the function that reads the labels for `init=labels`."""
        self._start_inputs = inputs

    @property
    def size_setting(self) -> str:
        """The length of the prompt."""
        return "prompt_length"

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """The attention slots; in an encoder-decoder, the encoder's input."""
        return frozenset({"encoder input" if backbone.is_encoder_decoder else "attention slots"})

    def incompatibilities(self, backbone: Backbone) -> list[str]:
        """A length that leaves no positions for text, and an initialisation without its words or labels."""
        problems = []
        limit = backbone.max_positions
        if limit is not None and self.prompt_length >= limit:
            problems.append(
                f"`method.prompt_length` must be less than the {limit} positions of {backbone.name}, "
                f"but is {self.prompt_length}."
            )
        return problems + self._init_problems()

    def _init_problems(self) -> list[str]:
        problems = [
            f"`method.init_{init}` must be given with `method.init={init}` only, but init is {self.init}."
            for init, value in (("text", self.init_text), ("labels", self.init_labels))
            if value is not None and self.init != init
        ]
        if self.init == "text":
            problems += missing_text_problem(self.init_text, self._start_inputs)
        return problems + (self._label_problems() if self.init == "labels" else [])

    def _label_problems(self) -> list[str]:
        try:
            labels = self._labels()
        except DataError as error:
            return [f"`method.init=labels` needs the task's labels, but: {error}"]
        if not labels:
            return [
                "`method.init=labels` needs labels, but the task has no closed set of targets; "
                "give `method.init_labels`, or choose another `method.init`."
            ]
        if not all(label.strip() for label in labels):
            return [f"`method.init_labels` must each have words, but are {list(labels)}."]
        return []

    def _labels(self) -> Sequence[str]:
        return self.init_labels or self._start_inputs.read_labels() or ()

    def _attach(self, backbone: Backbone) -> None:
        if self.rows is None:
            self.rows = nn.Parameter(self._initial_rows(backbone).float().to(backbone.device))
        if not backbone.is_encoder_decoder:
            backbone.slots.acquire()

    def _detach(self) -> None:
        if not self.backbone.is_encoder_decoder:
            self.backbone.slots.release()

    @torch.no_grad()
    def _initial_rows(self, backbone: Backbone) -> Tensor:
        """The initial rows, (prompt_length, width)."""
        if self.init == "random":
            return torch.rand(self.prompt_length, backbone.embedding_size) - 0.5
        if self.init == "text":
            ids = word_ids(backbone, self._start_inputs.words(self.init_text), self.prompt_length)
            self.notes.append(words_note(backbone, ids, self._start_inputs, self.init_text))
            return backbone.embed(torch.tensor(ids))
        sampled = sampled_embeddings(backbone, self.prompt_length)
        if self.init == "vocabulary":
            return sampled
        return self._label_rows(backbone, sampled)

    def _label_rows(self, backbone: Backbone, sampled: Tensor) -> Tensor:
        labels = self._labels()
        used = labels[: self.prompt_length]
        num_unused = len(labels) - len(used)
        rest = f"; {num_unused} more have no row, choose a longer prompt for them" if num_unused else ""
        self.notes.append(f"starts from the labels {', '.join(map(repr, used))}{rest}")
        return torch.cat([label_embeddings(backbone, used), sampled[len(used) :]])

    def direct_weight_access(self, backbone: Backbone) -> str | None:
        """In a decoder-only backbone it calls the base model, for the keys and values of the prompt."""
        return None if backbone.is_encoder_decoder else "reads keys and values inside the layers"

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Add the rows to an encoder's input; else fill the slots with their keys and values, and shift the text."""
        backbone, rows = self.backbone, self._required_rows
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
        """Make the prompt invisible; in an encoder-decoder, leave it out, so that the text's positions start at 0."""
        self._visible = False

    def reserved_positions(self, backbone: Backbone) -> int:
        """The prompt's length; in an encoder-decoder, of the encoder's positions only."""
        return self.prompt_length

    @property
    def num_stored(self) -> int:
        """Size of the rows: prompt_length x width."""
        return self._required_rows.numel()

    @property
    def _required_rows(self) -> Tensor:
        assert self.rows is not None
        return self.rows

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The rows, float32: (prompt_length, width)."""
        return {"prompt_length": self.prompt_length}, {"rows": self._required_rows.detach().cpu().clone()}

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Build the method of a bundle, and attach it to `backbone`."""
        method = cls(name=bundle.manifest.method, init="random", **bundle.manifest.settings)
        shape, rows = (method.prompt_length, backbone.embedding_size), bundle.tensors["rows"]
        if rows.shape != shape:
            raise ValueError(f"The rows must have the shape {shape}, but have {tuple(rows.shape)}.")
        method.rows = nn.Parameter(rows.float().to(backbone.device))
        return method.attach(backbone).eval()
