"""Strict JSON in and out, on a small document of its own."""

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ConfigDict, Field

from ptl_prefix.artifacts.json_document import (
    STRICT,
    DocumentError,
    from_values,
    json_problem,
    parse_json,
    parse_values,
    read_values,
    to_text,
    to_values,
)


@dataclass(frozen=True, kw_only=True)
class Part:
    count: int


@dataclass(frozen=True, kw_only=True)
class Whole:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    schema_version: int = 3
    part: Part
    parts: dict[str, Part]
    ids: tuple[int, ...] | None
    amount: float
    free: dict[str, Any]


WHOLE = Whole(part=Part(count=1), parts={"a/b": Part(count=2)}, ids=(1, 2), amount=0.1, free={"x": [None, True, "é"]})


def changed(**changes: Any) -> dict[str, Any]:
    return {**to_values(WHOLE), **changes}


text = st.text(st.characters(exclude_categories=["Cs"]))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)


@given(
    count=st.integers(),
    ids=st.none() | st.lists(st.integers()).map(tuple),
    amount=st.floats(allow_nan=False, allow_infinity=False),
    free=st.dictionaries(text, plain, max_size=4),
)
def test_what_is_written_is_read_back_equal(
    count: int, ids: tuple[int, ...] | None, amount: float, free: dict[str, Any]
) -> None:
    document = Whole(part=Part(count=count), parts={"k": Part(count=count)}, ids=ids, amount=amount, free=free)

    data = to_text(to_values(document)).encode()

    assert from_values(parse_values(data), Whole, version=3) == document


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"schema_version": 4}, "has the schema_version 4, and this ptl-prefix reads 3"),
        ({"schema_version": 3.0}, "has 3.0 as `schema_version`"),
        ({"schema_version": "3"}, "has the schema_version '3'"),
        ({"new": 1}, "has the unknown key `new`"),
        ({"part": {"count": 1, "new": 1}}, "has the unknown key `part.new`"),
        ({"parts": {"a": {"count": 1, "new": 1}}}, "has the unknown key `parts.a.new`"),
        ({"part": {}}, "has no `part.count`"),
        ({"part": {"count": "1"}}, "has '1' as `part.count`, which should be a valid integer"),
        ({"part": {"count": True}}, "has True as `part.count`"),
        ({"part": {"count": 1.0}}, "has 1.0 as `part.count`"),
        ({"ids": [1, None]}, "has None as `ids.1`"),
        ({"amount": "0.1"}, "has '0.1' as `amount`"),
        ({"free": []}, "has [] as `free`"),
    ],
)
def test_a_document_of_another_shape_is_refused_by_name(changes: dict[str, Any], fact: str) -> None:
    with pytest.raises(DocumentError) as refusal:
        from_values(changed(**changes), Whole, version=3)

    assert fact in str(refusal.value)


def test_a_document_without_a_key_is_refused_by_name() -> None:
    values = to_values(WHOLE)
    del values["amount"]

    with pytest.raises(DocumentError, match="has no `amount`"):
        from_values(values, Whole, version=3)


@dataclass(frozen=True, kw_only=True)
class Renamed:
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    schema_version: int = 3
    key: Annotated[Part, Field(alias="question")]


def test_a_field_may_keep_another_key_in_the_file() -> None:
    values = to_values(Renamed(key=Part(count=1)))

    assert values == {"schema_version": 3, "question": {"count": 1}}
    assert from_values(values, Renamed, version=3) == Renamed(key=Part(count=1))
    with pytest.raises(DocumentError, match="has no `question`"):
        from_values({"schema_version": 3, "key": {"count": 1}}, Renamed, version=3)


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff{}", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b'{"a": NaN}', "holds NaN"),
        (b'{"a": [-Infinity]}', "holds -Infinity"),
        (b'{"a": 1e999}', "holds 1e999"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "names `b` twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[" * 200_000, "is nested more than 100 levels deep"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "is nested more than 100 levels deep"),
    ],
)
def test_what_is_no_strict_json_is_refused(data: bytes, fact: str) -> None:
    with pytest.raises(DocumentError, match=fact):
        parse_values(data)


def test_json_of_other_programs_may_be_100_levels_deep_and_hold_nan() -> None:
    deep = "[" * 100 + "]" * 100

    assert json.dumps(parse_json(deep)) == deep
    assert math.isnan(parse_json('{"a": [NaN]}', finite=False)["a"][0])
    with pytest.raises(DocumentError, match="names `a` twice"):
        parse_json('[{"a": 1, "a": 1}]', finite=False)


@given(data=st.binary())
def test_no_bytes_make_the_parser_fail_in_another_way(data: bytes) -> None:
    with contextlib.suppress(DocumentError):
        parse_values(data)


@pytest.mark.parametrize(
    ("value", "fact"),
    [
        ({"a": [0.0, float("nan")]}, "`a.1` is nan"),
        ({"a": {"b": float("-inf")}}, "`a.b` is -inf"),
        ({"a": {1: 2}}, "`a` has the key 1"),
        ({"a": {"b": Path("x")}}, "`a.b` is a PosixPath"),
        ({"a": {1, 2}}, "`a` is a set"),
    ],
)
def test_a_value_that_json_cannot_hold_is_named(value: object, fact: str) -> None:
    assert fact in (json_problem(value) or "")


@given(value=plain)
def test_a_value_that_json_can_hold_is_not_complained_about(value: object) -> None:
    assert json_problem(value) is None
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_a_document_that_could_not_be_read_back_is_not_written() -> None:
    with pytest.raises(DocumentError, match=r"`free\.x` is nan"):
        to_values(Whole(part=Part(count=1), parts={}, ids=None, amount=0.0, free={"x": float("nan")}))
    with pytest.raises(DocumentError, match=r"has 'many' as `part\.count`"):
        to_values(Whole(part=Part(count="many"), parts={}, ids=None, amount=0.0, free={}))  # type: ignore[arg-type]


def test_no_more_of_a_file_is_read_than_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"a": 1}')

    assert read_values(path, max_bytes=8) == {"a": 1}
    with pytest.raises(DocumentError, match="is longer than 7 bytes"):
        read_values(path, max_bytes=7)
    with pytest.raises(DocumentError, match="is missing"):
        read_values(tmp_path / "other.json", max_bytes=8)
    with pytest.raises(DocumentError, match="cannot be read"):
        read_values(tmp_path, max_bytes=8)
