"""What routing needs to know of a task, from its training and validation inputs.

In: a task. Out: `RoutingFacts`, which go into its bundle. Inputs are read as a stream, and only sources: no target is
counted. Long tasks are sampled, evenly spread over the split.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from ptl_prefix.artifacts.ngram_counts import count_ngrams, one_row, routed_text, total_ngrams
from ptl_prefix.artifacts.routing_facts import MAX_VALIDATION, RoutingFacts, StateFacts, Vectors
from ptl_prefix.data.task import Split, Task

MAX_TRAINING = 10_000
"""Training inputs that are counted: the counts of five data sets' words hardly change with more."""
_MAX_TRAINING_STATES = 200

StatesOf = Callable[[Sequence[str]], Vectors]
"""A function from texts to one vector each, such as the backbone's mean hidden states."""


def routing_facts(
    task: Task, *, num_examples: Mapping[Split, int] | None = None, states: StateFacts | None = None
) -> RoutingFacts | None:
    """Count the inputs of a task.

    Args:
        task: Task of the bundle.
        num_examples: Number of examples of the splits where it is known; a split of unknown size is read twice.
        states: Hidden states, as `state_facts` computes them; `None` leaves them out.

    Returns:
        The facts; `None` if no training input has a word.

    Raises:
        DataError: A split cannot be read.
    """
    known = num_examples or {}
    totals, num_inputs = total_ngrams(_inputs(task, "train", MAX_TRAINING, known))
    if not totals.any():
        return None
    validation = count_ngrams(_validation(task, known))
    return RoutingFacts(num_inputs=num_inputs, trained=one_row(totals), validation=validation, states=states)


def state_facts(task: Task, states_of: StatesOf, *, num_examples: Mapping[Split, int] | None = None) -> StateFacts:
    """Mean and deviation of a function of training inputs, and its values of validation inputs; 400 inputs at most.

    Args:
        task: Task of the bundle.
        states_of: Function that computes the bare backbone's hidden states.
        num_examples: Number of examples of the splits where it is known.

    Raises:
        DataError: A split cannot be read.
    """
    known = num_examples or {}
    training, validation = list(_inputs(task, "train", _MAX_TRAINING_STATES, known)), _validation(task, known)
    vectors = states_of([*training, *validation])
    own, rows = vectors[: len(training)], vectors[len(training) :]
    return StateFacts(mean=own.mean(axis=0), deviation=own.std(axis=0), validation=rows)


def _validation(task: Task, known: Mapping[Split, int]) -> list[str]:
    return list(_inputs(task, "validation", MAX_VALIDATION, known)) if "validation" in task.splits else []


def _inputs(task: Task, split: Split, most: int, known: Mapping[Split, int]) -> Iterator[str]:
    """The text that routing reads of at most `most` sources, evenly spread over a split."""
    count = known[split] if split in known else sum(1 for _ in task.rows_of(split))
    kept = min(most, count)
    places = {index * count // kept for index in range(kept)}
    return (routed_text(row["source"]) for index, row in enumerate(task.rows_of(split)) if index in places)
