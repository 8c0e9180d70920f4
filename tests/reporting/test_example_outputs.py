"""Example outputs of all rows for the same inputs."""

from collections.abc import Callable

from support.made_up_runs import MadeUp

from ptl_prefix.reporting.comparison import Comparison
from ptl_prefix.reporting.example_outputs import example_outputs

Compared = Callable[..., Comparison]


def test_each_example_has_one_output_of_every_row(compared: Compared) -> None:
    runs = [
        MadeUp(bleu=9, hypotheses=("x", "y", "")),
        MadeUp(method="lora"),
        MadeUp(method="lora", seed=1, hypotheses="abc"),
    ]
    (table,) = compared(*runs).tables

    found = example_outputs(table, 2)

    assert [(one.id, one.source, one.references) for one in found] == [
        ("test-0", "name : 0", ("a town",)),
        ("test-1", "name : 1", ("a city",)),
    ]
    assert dict(found[0].hypotheses) == {1: "a town", 2: "x"}


def test_the_number_of_examples_is_limited(compared: Compared) -> None:
    (table,) = compared(MadeUp()).tables

    assert len(example_outputs(table, 99)) == 3
    assert example_outputs(table, 0) == []


def test_a_row_without_outputs_is_omitted(compared: Compared) -> None:
    (table,) = compared(MadeUp(), MadeUp(method="lora", bleu=1)).tables
    for path in table.rows[1].runs[0].folder.evaluation.glob("*/predictions.jsonl"):
        path.unlink()

    assert [set(one.hypotheses) for one in example_outputs(table, 2)] == [{1}, {1}]
