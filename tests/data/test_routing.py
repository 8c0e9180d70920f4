"""What is counted of a task: sources, of a sample that is evenly spread over the split."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from ptl_prefix.artifacts.ngram_counts import count_ngrams
from ptl_prefix.data import routing
from ptl_prefix.data.routing import routing_facts, state_facts
from ptl_prefix.data.task import Split
from ptl_prefix.data.tasks.table_to_text import TableToText


class _NumberedTask(TableToText):
    """Inputs that are their own number; targets that must not be counted."""

    readings = 0

    def rows_of(self, split: Split) -> Iterator[Mapping[str, Any]]:
        self.readings += 1
        for index in range({"train": 1000, "validation": 500, "test": 10}[split]):
            yield {"source": f"number{index}", "targets": ["secret"]}


def column(word: str) -> int:
    return int(count_ngrams([word]).columns[0])


def test_sources_are_counted_and_targets_are_not() -> None:
    facts = routing_facts(_NumberedTask())

    assert facts is not None
    assert facts.num_inputs == facts.totals.sum() == 1000
    assert facts.totals[column("number7")] >= 1
    assert facts.totals[column("secret")] == 0
    assert len(facts.validation) == 200
    assert facts.states is None


def test_a_sample_is_spread_over_the_split_and_a_known_size_saves_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "MAX_TRAINING", 4)
    unknown, known = _NumberedTask(), _NumberedTask()

    facts = routing_facts(known, num_examples={"train": 1000, "validation": 500})
    other = routing_facts(unknown)

    assert facts is not None
    assert other is not None
    assert sorted(np.flatnonzero(facts.totals)) == sorted(column(f"number{index}") for index in (0, 250, 500, 750))
    assert np.array_equal(facts.totals, other.totals)
    assert (known.readings, unknown.readings) == (2, 4)
    wanted = count_ngrams([f"number{index * 500 // 200}" for index in range(200)])
    assert np.array_equal(facts.validation.columns, wanted.columns)


def test_hidden_states_are_of_training_inputs_and_of_every_validation_input() -> None:
    def lengths(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)

    states = state_facts(_NumberedTask(), lengths)

    own = lengths([f"number{index * 5}" for index in range(200)])
    assert np.allclose(states.mean, own.mean(axis=0))
    assert np.allclose(states.deviation, own.std(axis=0))
    assert np.array_equal(states.validation, lengths([f"number{index * 500 // 200}" for index in range(200)]))


def test_a_task_without_words_or_validation_split_is_not_routed_by_mistake() -> None:
    class Blank(_NumberedTask):
        def rows_of(self, split: Split) -> Iterator[Mapping[str, Any]]:
            yield {"source": " "}

    class TrainOnly(_NumberedTask):
        splits = ("train",)

    assert routing_facts(Blank()) is None
    facts = routing_facts(TrainOnly())
    assert facts is not None
    assert len(facts.validation) == 0
