"""The outputs of a table's rows for the same test inputs, side by side.

In: a `Table`. Out: evenly spread test inputs, each with the output of one seed of every row.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ptl_prefix.artifacts.conversation import readable_source
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.reporting.table import Table


@dataclass(frozen=True)
class ExampleOutput:
    """A test input with the outputs of all rows.

    Args:
        id: Example id.
        source: Source text.
        references: Reference texts.
        hypotheses: Output of each row, by row number.
    """

    id: str
    source: str
    references: tuple[str, ...]
    hypotheses: Mapping[int, str]


def example_outputs(table: Table, count: int) -> list[ExampleOutput]:
    """Choose `count` inputs, evenly spread, with the outputs of every row whose predictions are readable.

    All rows have the same test inputs: `find_incompatibilities` has checked it.
    """
    by_row = {row.number: {one.id: one for one in row.run_metrics[0].predictions()} for row in table.rows}
    by_row = {number: outputs for number, outputs in by_row.items() if outputs}
    if not by_row or count == 0:
        return []
    inputs = list(next(iter(by_row.values())).values())
    num_shown = min(count, len(inputs))
    chosen = [inputs[index * len(inputs) // num_shown] for index in range(num_shown)]
    return [_example(one, by_row) for one in chosen]


def _example(shown: Prediction, by_row: Mapping[int, Mapping[str, Prediction]]) -> ExampleOutput:
    hypotheses = {number: outputs[shown.id].hypothesis for number, outputs in by_row.items()}
    return ExampleOutput(shown.id, readable_source(shown.source), shown.references, hypotheses)
