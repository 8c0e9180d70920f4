"""What the rows of a table wrote for the same inputs, side by side.

In: a `Table`. Out: some test inputs, evenly spread, with the output of one seed of each row.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.reporting.table import Table


@dataclass(frozen=True)
class ExampleOutput:
    """One test input.

    Args:
        id: The example's id.
        source: What was read.
        references: What would have been right.
        hypotheses: What each row wrote, by its number.
    """

    id: str
    source: str
    references: tuple[str, ...]
    hypotheses: Mapping[int, str]


def example_outputs(table: Table, count: int) -> list[ExampleOutput]:
    """So many inputs, of every row with readable outputs: those are all of the same inputs, or it were no table."""
    written = {row.number: {one.id: one for one in row.numbers[0].predictions()} for row in table.rows}
    written = {number: outputs for number, outputs in written.items() if outputs}
    if not written or count == 0:
        return []
    inputs = list(next(iter(written.values())).values())
    kept = min(count, len(inputs))
    chosen = [inputs[index * len(inputs) // kept] for index in range(kept)]
    return [_example(one, written) for one in chosen]


def _example(shown: Prediction, written: Mapping[int, Mapping[str, Prediction]]) -> ExampleOutput:
    hypotheses = {number: outputs[shown.id].hypothesis for number, outputs in written.items()}
    return ExampleOutput(shown.id, shown.source, shown.references, hypotheses)
