"""Examples and their form as rows."""

from ptl_prefix.data.example import Example, example_features, merge_by_source, to_dataset


def test_rows_have_the_columns_in_the_order_of_the_examples() -> None:
    rows = to_dataset([Example("a", ("x", "y"), "train-0", ("v",), "seen"), Example("b", ("z",))])

    assert rows.features == example_features()
    assert rows.to_list() == [
        {"source": "a", "targets": ["x", "y"], "example_id": "train-0", "values": ["v"], "group": "seen"},
        {"source": "b", "targets": ["z"], "example_id": "", "values": [], "group": ""},
    ]


def test_examples_of_one_source_are_merged_into_the_first() -> None:
    examples = [Example("a", ("a1",), group="seen"), Example("b", ("b1",)), Example("a", ("a2", "a1"))]

    assert list(merge_by_source(examples)) == [Example("a", ("a1", "a2", "a1"), group="seen"), Example("b", ("b1",))]
