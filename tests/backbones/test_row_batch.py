"""Rows that join, are read, step, swap places and leave: each one's logits are those of the row alone."""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.toy_batches import random_ids
from support.toy_prefixes import logits_with, random_states
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.attention_additions import QueryMap
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.batch_row import Row
from ptl_prefix.backbones.model_inputs import ModelInputs, prompt_batch
from ptl_prefix.backbones.prefix_states import PrefixStates
from ptl_prefix.backbones.row_batch import RowBatch
from ptl_prefix.backbones.spec import load_backbone

EQUAL: Mapping[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
"""In float64, where no rounding hides a row that sees a little of another one."""


@dataclass(eq=False)
class Planned:
    """A row of a schedule: its prefix, its prompt, the tokens that it is fed, and how far it is."""

    states: PrefixStates | None
    is_infix: bool
    prompt: list[int]
    tokens: list[int]
    row: Row | None = None
    source: list[int] = field(default_factory=list)
    num_steps: int = 0

    @property
    def text(self) -> list[int]:
        return self.prompt + self.tokens

    @property
    def num_unread(self) -> int:
        """Number of prompt tokens that are not read; the last one can be read or stepped."""
        return 0 if self.row is None else max(0, len(self.prompt) - self.row.length)


def planned_row(backbone: Backbone, draw: random.Random) -> Planned:
    kinds = ["none", "shifted", "unshifted", "some layers"] + ([] if backbone.is_encoder_decoder else ["infix"])
    kind, length, seed = draw.choice(kinds), draw.randint(1, 6), draw.randint(0, 10**6)
    states = None
    if kind != "none":
        layers = [draw.randint(0, 1), 2] if kind == "some layers" else None
        shifted = kind in ("shifted", "infix") and not backbone.is_encoder_decoder
        states = random_states(backbone, length, seed=seed, layers=layers, shifted=shifted)
        states = states.to(device=backbone.device, dtype=backbone.dtype)
    start = backbone.prompter(PromptFormat()).decoder_start_ids
    prompt = random_ids(draw.randint(1, 9), seed=seed) if start is None else list(start)
    source = [] if start is None else random_ids(draw.randint(1, 7), seed=seed + 2)
    return Planned(states, kind == "infix", prompt, random_ids(draw.randint(1, 5), seed=seed + 1), source=source)


def alone(backbone: Backbone, planned: Planned) -> Tensor:
    """The logits after each token from the prompt's last one on, with the row alone in one forward pass."""
    if backbone.is_encoder_decoder:
        text = torch.tensor([planned.text])
        inputs = prompt_batch([planned.source], backbone.padding(backbone.prompter(PromptFormat())))
        inputs = inputs.replace(decoder_input_ids=text, decoder_attention_mask=torch.ones_like(text))
    else:
        text = torch.tensor([planned.text])
        inputs = ModelInputs(input_ids=text, attention_mask=torch.ones_like(text))
    bare = random_states(backbone, 1, shifted=False).invisible().to(device=backbone.device, dtype=backbone.dtype)
    states = planned.states or bare
    if planned.is_infix:
        states = states.seen_from(torch.tensor([len(planned.prompt) - 1]))
    return logits_with(backbone, states, inputs)[0][len(planned.prompt) - 1 :]


class Play:
    """A random schedule of rows on one batch, which compares all logits but those within a prompt."""

    def __init__(self, backbone: Backbone, draw: random.Random) -> None:
        backbone.model.double()
        self.backbone, self.draw = backbone, draw
        self.waiting = [planned_row(backbone, draw) for _ in range(draw.randint(2, 7))]
        self.expected = {id(planned): alone(backbone, planned) for planned in self.waiting}
        self.batch = RowBatch(backbone)
        self.running: list[Planned] = []

    def run(self) -> None:
        while self.waiting or self.running:
            verbs = [self.join, self.read, self.step, self.step, self.step]
            self.draw.choice(verbs)()
            if self.draw.random() < 0.1:
                self.leave_early()
        assert self.batch.num_bytes == 0
        self.batch.close()

    def join(self) -> None:
        if not self.waiting:
            return
        planned = self.waiting.pop()
        prefix_from = len(planned.prompt) - 1 if planned.is_infix else 0
        planned.row = self.batch.join(planned.states, prefix_from=prefix_from, num_columns=self.draw.choice([0, 20]))
        if self.backbone.is_encoder_decoder:
            inputs = prompt_batch([planned.source], self.backbone.padding(self.backbone.prompter(PromptFormat())))
            self.batch.encode(planned.row, inputs, planned.prompt)
        self.running.append(planned)

    def read(self) -> None:
        unread = [planned for planned in self.running if planned.num_unread]
        chosen = self.draw.sample(unread, k=min(len(unread), self.draw.randint(1, 3)))
        chunks = []
        for planned in chosen:
            assert planned.row is not None
            rest = planned.prompt[planned.row.length :]
            if planned.is_infix and len(rest) > 1:
                rest = rest[:-1]
            chunks.append((planned.row, rest[: self.draw.randint(1, len(rest))]))
        if chunks:
            logits = self.batch.read(chunks)
            self.compare([(planned, of) for planned, of in zip(chosen, logits, strict=True) if not planned.num_unread])

    def step(self) -> None:
        ready = [planned for planned in self.running if planned.num_unread <= 1]
        chosen = self.draw.sample(ready, k=self.draw.randint(0, len(ready)))
        if not chosen:
            return
        rows = [planned.row for planned in chosen]
        fed = [planned.text[len(planned.prompt) - 1 + planned.num_steps] for planned in chosen]
        logits = self.batch.step([(row, token) for row, token in zip(rows, fed, strict=True) if row is not None])
        self.compare(list(zip(chosen, logits, strict=True)))

    def compare(self, generated: Sequence[tuple[Planned, Tensor]]) -> None:
        for planned, found in generated:
            assert_close(found, self.expected[id(planned)][planned.num_steps], **EQUAL)
            planned.num_steps += 1
            if planned.num_steps > len(planned.tokens):
                self.leave(planned)

    def leave_early(self) -> None:
        """A row is cancelled, or starts again from nothing later, as after a preemption."""
        if not self.running:
            return
        planned = self.draw.choice(self.running)
        self.leave(planned)
        if self.draw.random() < 0.5:
            planned.num_steps = 0
            self.waiting.append(planned)

    def leave(self, planned: Planned) -> None:
        assert planned.row is not None
        self.batch.leave(planned.row)
        self.running.remove(planned)


@pytest.mark.parametrize("family", ["gemma2", "opt", "bart", "t5"])
def test_every_row_has_the_logits_that_it_has_alone(family: str, tiny_folders: dict[str, Path]) -> None:
    backbone = load_backbone(str(tiny_folders[family]), name=family, dtype="float32")
    for seed in range(3):
        Play(backbone, random.Random(seed)).run()


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_any_order_of_joining_reading_stepping_and_leaving_keeps_the_logits(any_backbone: Backbone, seed: int) -> None:
    Play(any_backbone, random.Random(seed)).run()


def test_a_backbone_in_training_mode_computes_without_dropout_and_stays_in_it() -> None:
    backbone = load_backbone("tiny_gpt2", dtype="float32")
    for module in backbone.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    ids = random_ids(6, seed=0)
    [expected] = backbone.model(torch.tensor([ids])).logits[:, -1].detach()
    backbone.model.train()

    batch = RowBatch(backbone)
    row = batch.join(None)
    [found] = batch.read([(row, ids)])

    assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert backbone.model.training
    batch.close()


def test_in_bfloat16_a_row_is_within_2_percent_of_itself_alone() -> None:
    backbone = load_backbone("tiny_gpt2", dtype="bfloat16")
    lengths = (0, 3, 10, 20)
    prefixes = [random_states(backbone, max(length, 1), seed=length) for length in lengths]
    prefixes = [states.to(device=backbone.device, dtype=backbone.dtype) for states in prefixes]
    prefixes[0] = PrefixStates(prefixes[0].invisible().sites, torch.tensor([0]))
    texts = [random_ids(length, seed=length) for length in (40, 25, 33, 12)]
    whole = [ModelInputs(torch.tensor([text]), torch.ones(1, len(text), dtype=torch.long)) for text in texts]
    alone = [logits_with(backbone, states, inputs)[0][-8:] for states, inputs in zip(prefixes, whole, strict=True)]

    batch = RowBatch(backbone)
    rows = [batch.join(states if length else None) for states, length in zip(prefixes, lengths, strict=True)]
    batch.read([(row, text[:-8]) for row, text in zip(rows, texts, strict=True)])
    steps = [batch.step([(row, text[step]) for row, text in zip(rows, texts, strict=True)]) for step in range(-8, 0)]
    batch.close()

    for expected, found in zip(alone, torch.stack(steps, dim=1), strict=True):
        largest = float(expected.abs().max())
        assert float((found.float() - expected.float()).abs().max()) <= 0.02 * largest


def test_additions_serve_all_rows_of_a_batch_so_rows_of_another_bundle_are_refused() -> None:
    backbone = load_backbone("tiny_gpt2", dtype="float32")
    size = backbone.geometry["decoder_self"]
    added = QueryMap(torch.zeros(size.num_kv_heads, size.head_dim, size.head_dim), "elu")
    bare = random_states(backbone, 1, layers=[])
    one, other = (dataclasses.replace(bare, additions={"decoder_self": (added,) * size.num_layers}) for _ in range(2))
    batch = RowBatch(backbone)
    batch.join(one)

    for states in (other, None, random_states(backbone, 2)):
        with pytest.raises(ValueError, match="must be of one bundle"):
            batch.join(states)

    batch.join(one)
    assert batch.num_rows == 2
    batch.close()
    with pytest.raises(ValueError, match="must have no additions"):
        PrefixStates.stack([one, bare])
