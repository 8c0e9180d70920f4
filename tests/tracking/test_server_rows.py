from ptl_prefix.tracking.server_rows import ServerRows


def test_rows_up_to_the_newest_are_on_the_server() -> None:
    known = ServerRows(4, {"step", "val"})

    rows = [
        (2, {"step", "train"}),
        (4, {"step", "train"}),
        (4, {"step", "val"}),
        (4, {"step", "samples"}),
        (6, {"step"}),
    ]

    assert [known.has(*row) for row in rows] == [True, True, True, False, False]


def test_a_repeated_step_before_the_newest_row_is_on_the_server() -> None:
    known = ServerRows(9, {"step", "train"})

    assert [known.has(step, {"step", "train"}) for step in (7, 8, 9, 10)] == [True, True, True, False]


def test_a_row_equal_to_the_newest_one_is_new_after_the_newest_was_passed() -> None:
    known = ServerRows(2, {"step", "train"})

    assert [known.has(2, {"step", "train"}) for _ in range(2)] == [True, False]
