"""Data files: their rows, and messages that name file and line."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptl_prefix.data.file_rows import SUFFIXES, fingerprint_file, num_bytes, read_rows, why_unreadable
from ptl_prefix.data.text_lines import COMPRESSIONS, TextFormat
from ptl_prefix.errors import DataError


def read(path: Path, content: str | bytes) -> list[dict[str, Any]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [row.cells for row in read_rows(path)]


def test_csv_and_tsv_are_read_by_the_names_in_their_first_line(tmp_path: Path) -> None:
    expected = [{"source": "a, b", "target": 'say "x"'}]

    assert read(tmp_path / "x.csv", 'source,target\n"a, b","say ""x"""\n') == expected
    assert read(tmp_path / "x.tsv", 'source\ttarget\na, b\t"say ""x"""\n') == expected


def test_cells_such_as_na_and_null_stay_text(tmp_path: Path) -> None:
    assert read(tmp_path / "x.csv", "source,target\nNA,null\n") == [{"source": "NA", "target": "null"}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_byte_order_marks_and_line_ends_do_not_matter(tmp_path: Path, end: str, mark: str) -> None:
    table = mark + end.join(["source,target", "a,Café", "b,d", ""])
    json_lines = mark + end.join(['{"source": "a", "target": "Café"}', '{"source": "b", "target": "d"}', ""])

    expected = [{"source": "a", "target": "Café"}, {"source": "b", "target": "d"}]
    assert read(tmp_path / "x.csv", table) == expected
    assert read(tmp_path / "x.jsonl", json_lines) == expected


def test_other_characters_that_end_lines_in_unicode_do_not_end_rows(tmp_path: Path) -> None:
    text = "a\u2028b\x0bc\x85d"

    assert read(tmp_path / "x.csv", f"source\n{text}\n") == [{"source": text}]
    assert read(tmp_path / "x.jsonl", '{"source": "a\u2028b\x85d"}\n') == [{"source": "a\u2028b\x85d"}]


def test_a_quoted_cell_may_hold_a_line_end_and_blank_lines_are_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('source\n\n"two\nlines"\nthird\n')

    rows = list(read_rows(path))

    assert [row.cells["source"] for row in rows] == ["two\nlines", "third"]
    assert [row.place for row in rows] == [f"{path}, line 3", f"{path}, line 5"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_readers_say_how_many_bytes_they_have_read(tmp_path: Path, suffix: str) -> None:
    path, rows = tmp_path / f"x{suffix}", [{"source": f"Café {number}", "target": "b"} for number in range(3000)]
    table = pa.table({"source": [row["source"] for row in rows], "target": [row["target"] for row in rows]})
    texts = {
        ".jsonl": "".join(f"{json.dumps(row)}\n" for row in rows),
        ".json": json.dumps(rows),
        ".csv": "source,target\n" + "".join(f'"{row["source"]}",b\n' for row in rows),
        ".tsv": "source\ttarget\n" + "".join(f"{row['source']}\tb\n" for row in rows),
        ".source": "".join(f"{row['source']}\n" for row in rows),
    }
    (tmp_path / "x.target").write_text("b\n" * 3000)
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        path.write_text(texts[suffix], encoding="utf-8")

    read = 0

    def on_read(count: int) -> None:
        nonlocal read
        read += count

    shares = [read / num_bytes(path) for _ in read_rows(path, on_read=on_read)]

    assert len(shares) == 3000
    assert shares == sorted(shares)
    assert shares[0] < 0.4
    assert 0.45 < shares[1500] < 0.7
    assert 0.9 < shares[-1] <= 1.0


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compressed_files_are_decompressed_as_they_are_read(tmp_path: Path, compression: str) -> None:
    texts = {
        "x.jsonl": "".join(f'{{"source": "Café {number}", "target": "b"}}\n' for number in range(3000)),
        "x.csv": "source,target\n" + "".join(f"Café {number},b\n" for number in range(3000)),
        "x.source": "".join(f"Café {number}\n" for number in range(3000)),
        "x.target": "b\n" * 3000,
    }
    for name, text in texts.items():
        with pa.CompressedOutputStream(str(tmp_path / f"{name}{compression}"), COMPRESSIONS[compression]) as file:
            file.write(text.encode("utf-16" if name == "x.csv" else "utf-8"))
    expected = [{"source": f"Café {number}", "target": "b"} for number in range(3000)]

    for name in ("x.jsonl", "x.csv", "x.source"):
        counts: list[int] = []
        path = tmp_path / f"{name}{compression}"
        assert [row.cells for row in read_rows(path, on_read=counts.append)] == expected
        assert sum(counts) == num_bytes(path)
    path = tmp_path / f"x.jsonl{compression}"
    whole = path.read_bytes()
    for damaged in (whole[:-100], b"plain text", whole[:-100] + bytes(100)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"x\.jsonl\.\w+ must be a whole \w+ file, but cannot be decompressed \("):
            list(read_rows(path))
    assert "must end in one of" in str(why_unreadable(tmp_path / f"x.parquet{compression}"))


def test_a_folder_of_datasets_is_read_as_it_was_saved(tmp_path: Path) -> None:
    kinds = datasets.Features({"source": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"source": [f"in {number}" for number in range(1500)], "label": [number % 2 for number in range(1500)]}
    whole = datasets.Dataset.from_dict(rows, features=kinds)
    reordered = whole.select(range(1499, -1, -1)).with_format("numpy")
    datasets.DatasetDict({"train": reordered, "test": whole}).save_to_disk(tmp_path / "both")
    counts: list[int] = []

    path = tmp_path / "both" / "train"
    read_back = list(read_rows(path, on_read=counts.append))

    assert [row.cells["source"] for row in read_back] == rows["source"][::-1]
    assert read_back[0].cells == {"source": "in 1499", "label": "yes"}
    assert (read_back[1].place, read_back[1].text("label")) == (f"{path}, row 2", "no")
    assert 0.99 * num_bytes(path) < sum(counts) <= num_bytes(path)
    assert fingerprint_file(path) != fingerprint_file(tmp_path / "both" / "test")
    assert "is a `DatasetDict`; give the folder of one split: " in str(why_unreadable(tmp_path / "both"))
    arrow = next(path.glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(DataError, match=r"train must be a folder of `Dataset.save_to_disk`, but cannot be loaded"):
        list(read_rows(path))
    arrow.unlink()
    assert "arrow must be a file, but does not exist" in str(why_unreadable(path))
    (path / "state.json").write_text("[]")
    assert "state.json must be a JSON object, but " in str(why_unreadable(path))


def test_the_bytes_of_utf_16_are_counted_too(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("source\ttarget\n" + "a\tb\n" * 9000, encoding="utf-16")
    counts: list[int] = []

    for _ in read_rows(tmp_path / "x.tsv", on_read=counts.append):
        pass

    assert sum(counts) == num_bytes(tmp_path / "x.tsv")


def test_parquet_is_read_with_its_lists(tmp_path: Path) -> None:
    pq.write_table(pa.table({"source": ["a", "b"], "targets": [["x", "y"], ["z"]]}), tmp_path / "x.parquet")

    rows = list(read_rows(tmp_path / "x.parquet"))

    assert [row.texts("targets") for row in rows] == [["x", "y"], ["z"]]
    assert rows[1].place == f"{tmp_path / 'x.parquet'}, row 2"


def test_json_is_an_array_of_objects_or_one_key_that_holds_it(tmp_path: Path) -> None:
    expected = [{"source": "a"}, {"source": "b"}]

    assert read(tmp_path / "x.json", '[{"source": "a"},\n {"source": "b"}]') == expected
    assert read(tmp_path / "x.json", '\ufeff{"entries": [{"source": "a"}, {"source": "b"}]}') == expected
    assert [row.place for row in read_rows(tmp_path / "x.json")][1] == f"{tmp_path / 'x.json'}, row 2"


def test_parallel_text_is_read_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "x.target").write_bytes("Café.\r\n\nB.".encode())

    assert read(tmp_path / "x.source", "\ufeffOne\u2028two.\n \nThree.\n") == [
        {"source": "One\u2028two.", "target": "Café."},
        {"source": "", "target": ""},
        {"source": "Three.", "target": "B."},
    ]
    assert [row.place for row in read_rows(tmp_path / "x.source")][2] == f"{tmp_path / 'x.source'}, line 3"


@pytest.mark.parametrize(("sources", "targets"), [(2, 1), (1, 2)])
def test_parallel_text_of_unequal_length_is_named_where_it_ends(tmp_path: Path, sources: int, targets: int) -> None:
    (tmp_path / "x.target").write_text("a\n" * targets)
    longer, shorter = ("x.source", "x.target") if sources > targets else ("x.target", "x.source")

    with pytest.raises(DataError, match=rf"{longer}, line 2: .* but {shorter} ends before"):
        read(tmp_path / "x.source", "b\n" * sources)


def test_parallel_text_is_two_files(tmp_path: Path) -> None:
    (tmp_path / "x.source").write_text("a\n")

    assert str(why_unreadable(tmp_path / "x.source")).startswith(f"{tmp_path / 'x.target'} must be a file")
    for use in (read_rows, fingerprint_file):
        with pytest.raises(DataError, match=r"x.target must be a file, but does not exist"):
            use(tmp_path / "x.source")
    fingerprints = set()
    for target in ("b\n", "c\n"):
        (tmp_path / "x.target").write_text(target)
        fingerprints.add(fingerprint_file(tmp_path / "x.source"))
    assert len(fingerprints) == 2


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
    lambda text: text.strip() != ""
)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_as_csv_is_read_back(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    path = tmp_path / "x.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("source", "target"), *pairs])

    assert [(row.cells["source"], row.cells["target"]) for row in read_rows(path)] == pairs


@pytest.mark.parametrize(
    ("name", "content", "mistake"),
    [
        ("x.csv", b"source,target\na,b\nc\n", "line 3: each row must have the 2 columns .* has 1"),
        ("x.csv", b"source,target\na,b,c\n", "line 2: each row must have the 2 columns .* has 3"),
        ("x.csv", b'source,target\na,b\n"c,d\ne,f\n', "line 3: each row must be well-formed, but unexpected end"),
        ("x.csv", b'source,target\n"a"b,c\n', "line 2: each row must be well-formed"),
        ("x.csv", b"source,target\ra,b\r", "line 1: each row must be well-formed, but a lone CR is no end of a line"),
        ("x.csv", b"source,source\na,b\n", "line 1: column names must differ"),
        ("x.csv", b"source\nok\nCaf\xe9\n", "line 3: a file must be UTF-8, but byte 0xe9 is not"),
        ("x.csv", "source\nok\n".encode("utf-16-le"), r"line 1: text must not hold the character U\+0000"),
        ("x.csv", b"\xff\xfes\x00o", "after line 0: a file must be utf-16|line 1: .* be utf-16"),
        ("x.jsonl", b'{"a": 1}\n{"source": "a\0"}\n', r"line 2: text must not hold the character U\+0000"),
        ("x.tsv", b"source\ttarget\na\tb\tc\n", "line 2: each row must have the 2 columns .* no tab and no line end"),
        (
            "x.jsonl",
            b'{"source": "a"}\n{"source": \n',
            "line 2: each line must be one JSON object, but this one is not JSON .Expecting",
        ),
        (
            "x.jsonl",
            b'{"source": "a"}\n\n["a"]\n',
            r"line 3: each line must be one JSON object, but this one is \['a'\]",
        ),
        ("x.jsonl", b'{"a": 1}\n{"target": "b", "target": "c"}\n', "line 2: .* but this one names `target` twice"),
        ("x.json", b'[{"a": {"b": 1, "b": 2}}]', "must be one array of JSON objects, but names `b` twice"),
        ("x.jsonl", b'{"a": ' + b"[" * 1500 + b"]" * 1500 + b"}\n", "line 1: .* nested more than 100 levels deep"),
        ("x.json", b"[" * 400 + b"]" * 400, "nested more than 100 levels deep"),
        ("x.jsonl", b'{"source": "\xff"}\n', "line 1: a file must be UTF-8"),
        ("x.json", b"[{]", "must be one array of JSON objects, but is not JSON .Expecting property name"),
        ("x.json", b'{"a": 1}\n{"a": 2}\n', "but is not JSON .Extra data: .*name it .jsonl"),
        ("x.json", b'{"a": 1, "b": []}', "must be one array of JSON objects, but is"),
        ("x.json", b'{"a": 1}', "must be one array of JSON objects, but is 1"),
        ("x.json", b'[{"source": "a"}, 7]', "row 2: each row must be a JSON object, but is 7"),
        ("x.parquet", b"PAR1 not really", "must be a Parquet file, but cannot be read as one"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, mistake: str) -> None:
    with pytest.raises(DataError, match=f"{tmp_path / name}.*{mistake}"):
        read(tmp_path / name, content)


@pytest.mark.parametrize(
    ("cell", "mistake"),
    [
        ('""', "is ''"),
        ('" \\t"', "is ' .t'"),
        ("null", "is None"),
        ("NaN", "is nan"),
        ("[]", r"is \[\]"),
        ('[" "]', r"is \[' '\]"),
        ('["a", null]', r"is \['a', None\]"),
        ('{"a": 1}', r"is \{'a': 1\}"),
        ('"\\ud800"', r"is '.ud800'"),
        ('"a\\u0000"', r"is 'a.x00'"),
    ],
)
def test_a_cell_without_text_is_named(tmp_path: Path, cell: str, mistake: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"source": "a"}}\n{{"source": {cell}}}\n')
    row = list(read_rows(path))[1]

    with pytest.raises(DataError, match=f"line 2: 'source' must be text, or a list of texts, .* but {mistake};"):
        row.text("source")


def test_a_missing_column_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("text,label\na,b\n")

    with pytest.raises(DataError, match=r"x.csv, line 2: .* the column 'source', but this one has text, label"):
        next(read_rows(path)).text("source")


def test_a_missing_columns_message_names_the_setting_that_chose_it(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"text,{'long ' * 20}\na,b\n")
    row = next(read_rows(path))

    with pytest.raises(DataError, match=r"has text, long long .*\.\.\.; choose .* `task.source_column=<name>`.* names"):
        row.text("source", "source_column")
    with pytest.raises(DataError, match=r"choose one of these with `task.target_columns=\[<name>\]`"):
        row.texts("target", "target_columns")


@pytest.mark.parametrize(("cell", "text"), [("7", "7"), ("0.5", "0.5"), ("true", "true"), ("false", "false")])
def test_numbers_and_booleans_are_their_text(tmp_path: Path, cell: str, text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"source": {cell}, "target": ["a", {cell}]}}\n')
    row = next(read_rows(path))

    assert row.text("source") == text
    assert row.texts("target") == ["a", text]
    assert (row.converted("source"), row.converted("target")) == (True, True)


PAIRS = [{"source": "a", "target": "b; c"}, {"source": "Café", "target": "d"}]


@pytest.mark.parametrize(
    ("lines", "text_format"),
    [
        ("source,target\na,b; c\nCafé,d\n", TextFormat()),
        ('source;target\na;"b; c"\nCafé;d\n', TextFormat()),
        ("source\ttarget\na\tb; c\nCafé\td\n", TextFormat()),
        ("source|target\na|b; c\nCafé|d\n", TextFormat()),
        ("sep=,\nsource,target\na,b; c\nCafé,d\n", TextFormat()),
        ('"sep=;"\r\nsource;target\r\na;"b; c"\r\nCafé;d\r\n', TextFormat()),
        ("source:target\na:b; c\nCafé:d\n", TextFormat(separator=":")),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"])
def test_a_csv_files_separator_and_encoding_are_found_out_or_given(
    tmp_path: Path, lines: str, text_format: TextFormat, encoding: str
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(lines.encode(encoding))
    given = replace(text_format, encoding=encoding) if encoding == "latin-1" else text_format

    assert [row.cells for row in read_rows(path, given)] == PAIRS


def test_messages_name_the_settings_only_where_there_are_some(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"sep=,\nsource;target\nCaf\xe9;b\n")

    with pytest.raises(DataError, match=r"line 3: .*convert it to UTF-8\.$") as plain:
        list(read_rows(path))
    assert "task." not in str(plain.value)
    with pytest.raises(DataError, match=r"`task\.encoding=latin-1`"):
        list(read_rows(path, TextFormat(has_settings=True)))
    path.write_bytes(b"sep=;\nsource;target\n\na;b;c\n")
    with pytest.raises(DataError, match=r"line 4: each row must have the 2 columns .* `task.separator=;`"):
        list(read_rows(path, TextFormat(has_settings=True)))


def test_a_tsv_line_is_a_row_whatever_its_quotation_marks(tmp_path: Path) -> None:
    stray = 'source\ttarget\n"To be or not\tfirst half\nthat is the question"\tsecond half\n"Hi"\t"\n'
    all_quoted = '"source"\t"target"\n"a\tb"\t"c\nd"\n'

    assert read(tmp_path / "x.tsv", stray) == [
        {"source": '"To be or not', "target": "first half"},
        {"source": 'that is the question"', "target": "second half"},
        {"source": '"Hi"', "target": '"'},
    ]
    assert read(tmp_path / "x.tsv", all_quoted) == [{"source": "a\tb", "target": "c\nd"}]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "source"])
def test_cells_are_as_long_as_documents_and_a_lone_cr_ends_no_row(tmp_path: Path, suffix: str) -> None:
    text = "a\rb" + "x" * 200_000
    (tmp_path / "x.target").write_text("c\n")
    lines = {"csv": f'source,target\n"{text}",c\n', "tsv": f"source\ttarget\n{text}\tc\n", "source": f"{text}\r\n"}

    assert read(tmp_path / f"x.{suffix}", lines[suffix]) == [{"source": text, "target": "c"}]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_rows_are_read_one_at_a_time(tmp_path: Path, suffix: str) -> None:
    good = {"jsonl": '{"source": "a"}\n', "csv": "source\na\n", "tsv": "source\na\n"}[suffix]
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(good.encode() + b"\xff\n")
    rows = read_rows(path)

    assert next(rows).text("source") == "a"
    with pytest.raises(DataError, match=r"must be UTF-8, but byte 0xff"):
        next(rows)


def test_lists_of_texts_are_sentences_or_alternatives(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"source": [" One. ", "", "Two."]}\n')
    row = next(read_rows(path))

    assert row.text("source") == "One. Two."
    assert row.texts("source") == ["One.", "Two."]


def test_each_reason_for_an_unreadable_file_has_its_own_message(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()

    assert "must end in one of .jsonl, .json, .csv, .tsv, .parquet, .source" in str(why_unreadable(tmp_path / "x.xlsx"))
    assert "does not exist" in str(why_unreadable(tmp_path / "x.csv"))
    assert "is a folder" in str(why_unreadable(tmp_path / "folder.csv"))
    for use in (read_rows, fingerprint_file):
        with pytest.raises(DataError, match="does not exist"):
            use(tmp_path / "x.csv")


def test_a_fingerprint_is_of_the_content_alone(tmp_path: Path) -> None:
    for name, content in [("a.csv", "x"), ("b.csv", "x"), ("c.csv", "y")]:
        (tmp_path / name).write_text(content)

    assert fingerprint_file(tmp_path / "a.csv") == fingerprint_file(tmp_path / "b.csv")
    assert fingerprint_file(tmp_path / "a.csv") != fingerprint_file(tmp_path / "c.csv")


def test_a_file_that_git_lfs_did_not_fetch_is_no_data(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")

    assert why_unreadable(path) == (f"{path} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`.")
