from ptl_prefix.artifacts.config_tree import leaves, walk

CONFIG = {"a": {"b": [1, {"x": 2}], "c": {}}, "d": None}


def test_leaves_are_values_by_path_and_a_list_or_an_empty_mapping_is_one() -> None:
    assert list(leaves(CONFIG)) == [("a.b", [1, {"x": 2}]), ("a.c", {}), ("d", None)]
    assert [path for path, _ in leaves(CONFIG, separator="/")] == ["a/b", "a/c", "d"]


def test_a_walk_meets_mappings_before_what_they_hold() -> None:
    assert [path for path, _ in walk(CONFIG)] == ["a", "a.b", "a.c", "d"]


def test_a_walk_into_lists_numbers_their_items() -> None:
    assert [path for path, _ in walk(CONFIG, into_lists=True)] == ["a", "a.b", "a.b.0", "a.b.1", "a.b.1.x", "a.c", "d"]
