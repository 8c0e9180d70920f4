from ptl_prefix.tracking.server_rows import ServerRows


def test_rows_up_to_the_newest_were_sent_and_those_behind_it_were_not() -> None:
    known = ServerRows(4, {"step", "val"})

    rows = [
        (2, {"step", "train"}),
        (4, {"step", "train"}),
        (4, {"step", "val"}),
        (4, {"step", "samples"}),
        (6, {"step"}),
    ]

    assert [known.has(*row) for row in rows] == [True, True, True, False, False]


def test_a_step_that_the_log_has_not_reached_again_is_known_as_a_whole() -> None:
    known = ServerRows(9, {"step", "train"})

    assert [known.has(step, {"step", "train"}) for step in (7, 8, 9, 10)] == [True, True, True, False]


def test_what_was_sent_to_the_end_is_not_sent_again_though_a_row_of_it_looks_the_same() -> None:
    known = ServerRows(2, {"step", "train"})

    assert [known.has(2, {"step", "train"}) for _ in range(2)] == [True, False]
