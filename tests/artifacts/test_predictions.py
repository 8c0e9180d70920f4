import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptl_prefix.artifacts.predictions import Prediction, read_predictions, to_line, write_predictions
from ptl_prefix.errors import DataError

LINE = {"id": "0", "source": "name : A", "references": ["A."], "hypothesis": "a"}

text = st.text(st.characters(exclude_categories=["Cs"]))
predictions = st.builds(
    Prediction,
    id=text,
    source=text,
    references=st.lists(text, min_size=1).map(tuple),
    hypothesis=text,
    values=st.lists(text).map(tuple),
    group=text,
)


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "predictions.jsonl"
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


@given(st.lists(predictions, min_size=1, unique_by=lambda prediction: prediction.id))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, written: list[Prediction]) -> None:
    path = tmp_path_factory.getbasetemp() / "written.jsonl"

    write_predictions(path, written)

    assert read_predictions(path) == written


def test_what_is_empty_and_may_be_absent_is_left_out() -> None:
    bare = Prediction(id="0", source="s", references=("r",), hypothesis="")

    assert json.loads(to_line(bare)) == {"id": "0", "source": "s", "references": ["r"], "hypothesis": ""}


def test_a_file_of_another_system_may_have_other_keys_a_bom_crlf_numbers_as_ids_and_empty_lines(tmp_path: Path) -> None:
    first = json.dumps({**LINE, "id": 7, "score": 0.5, "hypothesis": ""}).encode()
    second = json.dumps({**LINE, "references": ["é", "b"], "group": "seen", "values": ["A"]}, ensure_ascii=False)
    path = tmp_path / "foreign.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + first + b"\r\n\r\n" + second.encode() + b"\r\n")

    assert read_predictions(path) == [
        Prediction(id="7", source="name : A", references=("A.",), hypothesis=""),
        Prediction(id="0", source="name : A", references=("é", "b"), hypothesis="a", values=("A",), group="seen"),
    ]


def test_only_lf_ends_a_line(tmp_path: Path) -> None:
    line = json.dumps({**LINE, "hypothesis": "a\u2028b\x85c"}, ensure_ascii=False).encode()

    (prediction,) = read_predictions(write(tmp_path, line))

    assert prediction.hypothesis == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("bad", "fact"),
    [
        (b"\xff\xfe{", r"must be UTF-8, but byte 0xff is not"),
        ('{"hypothesis": "é"}'.encode("latin-1"), r"must be UTF-8, but byte 0xe9 is not"),
        (b"name : A", r"must be one JSON object, but is not JSON .Expecting value"),
        (b'{"id": "1"', r"must be one JSON object, but is not JSON "),
        (b"[" * 100_000, r"must be one JSON object, but is nested more than 100 levels deep"),
        (b'{"id": "1", "source": "a", "id": "2"}', r"must be one JSON object, but names `id` twice"),
        (["a"], r"must be one JSON object, but is \['a'\]"),
        (
            {key: LINE[key] for key in ("id", "source", "references")},
            r"must have 'hypothesis', but has id, source, ref",
        ),
        ({}, r"must have a?.*'\w+', but has nothing"),
        ({**LINE, "id": "1", "hypothesis": None}, r"'hypothesis' must be text, but is None"),
        ({**LINE, "id": "1", "source": ["x"]}, r"'source' must be text, but is \['x'\]"),
        ({**LINE, "id": 1.5}, r"'id' must be text, but is 1.5"),
        ({**LINE, "id": True}, r"'id' must be text, but is True"),
        ({**LINE, "id": "1", "hypothesis": "\ud800"}, r"'hypothesis' must be text, but is '\\ud800'"),
        ({**LINE, "id": "1", "references": "A."}, r"'references' must be a list of texts, but is 'A.'"),
        ({**LINE, "id": "1", "references": ["A.", 3]}, r"'references' must be a list of texts"),
        ({**LINE, "id": "1", "references": []}, r"must have at least one reference, but has none"),
        ({**LINE, "id": "1", "values": "A"}, r"'values' must be a list of texts"),
        ({**LINE, "id": "1", "group": 3}, r"'group' must be text"),
        (LINE, r"ids must differ, but '0' is also the id of line 1"),
    ],
)
def test_a_line_that_is_no_prediction_is_refused_by_file_and_line(tmp_path: Path, bad: Any, fact: str) -> None:
    path = write(tmp_path, LINE, b"", bad)

    with pytest.raises(DataError, match=rf"predictions\.jsonl, line 3: .*{fact}.*; "):
        read_predictions(path)


def test_a_file_with_nothing_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold one prediction per line, but is empty"):
        read_predictions(write(tmp_path, b"", b"  "))


def test_a_path_without_a_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(DataError, match="must be a readable file"):
            read_predictions(path)
