"""What routing needs to know of a task, from its training and validation inputs.

In: a task. Out: `RoutingFacts`, which go into its bundle. Inputs are read as a stream, and only sources: no target is
counted. Long tasks are sampled, evenly spread over the split.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ptl_prefix.artifacts.ngram_counts import count_ngrams, routed_text, total_ngrams
from ptl_prefix.artifacts.routing_facts import MAX_VALIDATION, RoutingFacts, StateFacts, Vectors
from ptl_prefix.data.task import Split, Task

MAX_TRAINING = 10_000
"""Training inputs that are counted: the counts of five data sets' words hardly change with more."""
_MAX_TRAINING_STATES = 200

StatesOf = Callable[[Sequence[str]], Vectors]
"""A function from texts to one vector each, such as the backbone's mean hidden states."""


def routing_facts(
    task: Task, *, num_examples: Mapping[Split, int] | None = None, states_of: StatesOf | None = None
) -> RoutingFacts | None:
    """Count the inputs of a task.

    Args:
        task: Task of the bundle.
        num_examples: Number of examples of the splits where it is known; a split of unknown size is read twice.
        states_of: Function that computes hidden states; `None` leaves them out.

    Returns:
        The facts; `None` if no training input has a word.

    Raises:
        DataError: A split cannot be read.
    """
    known = num_examples or {}
    totals, num_inputs = total_ngrams(_inputs(task, "train", MAX_TRAINING, known))
    if not totals.any():
        return None
    validation = list(_inputs(task, "validation", MAX_VALIDATION, known)) if "validation" in task.splits else []
    states = None
    if states_of is not None:
        states = _state_facts(list(_inputs(task, "train", _MAX_TRAINING_STATES, known)), validation, states_of)
    return RoutingFacts(num_inputs=num_inputs, totals=totals, validation=count_ngrams(validation), states=states)


def _state_facts(training: Sequence[str], validation: Sequence[str], states_of: StatesOf) -> StateFacts:
    vectors = states_of(training)
    rows = states_of(validation) if validation else np.zeros((0, vectors.shape[1]), dtype=np.float32)
    return StateFacts(mean=vectors.mean(axis=0), deviation=vectors.std(axis=0), validation=rows)


def _inputs(task: Task, split: Split, most: int, known: Mapping[Split, int]) -> Iterator[str]:
    """The text that routing reads of at most `most` sources, evenly spread over a split."""
    count = known[split] if split in known else sum(1 for _ in task.rows_of(split))
    kept = min(most, count)
    places = {index * count // kept for index in range(kept)}
    return (routed_text(row["source"]) for index, row in enumerate(task.rows_of(split)) if index in places)
