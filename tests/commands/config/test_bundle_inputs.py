"""Sources for `generate`: the lines of a file."""

import io
from pathlib import Path

import pytest

from ptl_prefix.commands.config.bundle_inputs import source_lines
from ptl_prefix.errors import DataError


@pytest.mark.parametrize(
    ("content", "sources"),
    [
        (b"name : Cotto\rkind : pub\nname : Zizzi\n", ["name : Cotto\rkind : pub", "name : Zizzi"]),
        (b"\xef\xbb\xbfa\r\n\r\nb", ["a", "", "b"]),
        ("a\u2028b\x0bc\n".encode(), ["a\u2028b\x0bc"]),
        (b"", []),
        (b"\n", [""]),
    ],
)
def test_only_line_feeds_end_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, sources: list[str]
) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    assert list(source_lines(str(tmp_path / "x.txt"))) == sources
    assert list(source_lines("-")) == sources


@pytest.mark.parametrize("content", [b"\xff", "name : Cotto\n".encode("utf-16-le")])
def test_what_is_no_utf_8_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.txt").write_bytes(content)

    with pytest.raises(DataError, match=r"`input` must be a UTF-8 text file"):
        list(source_lines(str(tmp_path / "x.txt")))
