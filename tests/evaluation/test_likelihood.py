"""Likelihood of references: one sum of log-likelihoods, said in three ways."""

import math
from typing import Any

import pytest
import torch
from support.tiny_runs import TinyRuns

from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.evaluation.likelihood import INFOS, measure_likelihood

ROWS: list[dict[str, Any]] = [
    {"source": "name : The Eagle", "targets": ["The Eagle is here.", "Là est l'aigle."], "example_id": "0"},
    {"source": "city : Rome | kind : pub", "targets": ["A pub in Rome."], "example_id": "1"},
]


def measured(runs: TinyRuns, rows: list[dict[str, Any]], **changes: Any) -> tuple[dict[str, float], Any, Any]:
    plan, backbone = runs.attached(**changes)
    prompter = backbone.prompter(plan.task.prompt)
    numbers = measure_likelihood(
        backbone,
        plan.method.eval(),
        rows,
        prompter,
        batch_size=2,
        reserved_positions=plan.method.reserved_positions(backbone),
    )
    return numbers, plan, (backbone, prompter)


def test_the_numbers_are_those_of_each_pair_written_out(tiny_runs: TinyRuns) -> None:
    numbers, plan, (backbone, prompter) = measured(tiny_runs, ROWS)

    nats, tokens, characters = 0.0, 0, 0
    for row in ROWS:
        for target in row["targets"]:
            prompt, ids = prompter.encode_source(row["source"]), prompter.encode_target(target)
            text = torch.tensor([[*prompt, *ids]])
            with torch.no_grad():
                inputs = plan.method.condition(ModelInputs(text, torch.ones_like(text)))
                predicted = backbone.logits(inputs)[0, len(prompt) - 1 : -1].log_softmax(-1)
            nats -= float(predicted[range(len(ids)), ids].sum())
            tokens, characters = tokens + len(ids), characters + len(target) + 1
    assert numbers.keys() == INFOS.keys()
    assert numbers["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert numbers["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert numbers["bits_per_character"] == pytest.approx(nats / characters / math.log(2), rel=1e-5)


def test_a_pair_that_does_not_fit_uncut_is_left_out(tiny_runs: TinyRuns) -> None:
    overlong = {"source": "word " * 400, "targets": ["x"], "example_id": "2"}

    numbers, _, _ = measured(tiny_runs, [*ROWS, overlong])

    assert numbers == pytest.approx(measured(tiny_runs, ROWS)[0])
    assert measured(tiny_runs, [overlong])[0] == {}
