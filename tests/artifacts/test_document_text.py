"""A document's text, and what is said of a bundle whose document has changed."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.scripted_engine import embedded_tokenizer, made_up_bundle

from ptl_prefix.artifacts.document_text import document_state, read_document, stale_note, text_sha256
from ptl_prefix.artifacts.manifest import Manifest
from ptl_prefix.errors import DataError


def test_a_document_is_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffCafé\r\nno".encode())

    assert read_document(path) == "Café\nno"


@pytest.mark.parametrize(
    ("content", "fact"), [(b"\xff\xfe", "has the byte 0xff at 0"), (b"a\0b", "holds a zero byte"), (b" \n", "is empty")]
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, fact: str) -> None:
    (tmp_path / "x").write_bytes(content)

    with pytest.raises(DataError, match=fact):
        read_document(tmp_path / "x")


def test_a_missing_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_document(tmp_path / "none")


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "manual.txt"
    path.write_text("The mill has one wheel.\n", encoding="utf-8")
    return path


def manifest_of(document: Path) -> Manifest:
    manifest = made_up_bundle("mill", embedded_tokenizer()).manifest
    return replace(manifest, document_sha256=text_sha256(read_document(document)), document_path=str(document))


def test_a_changed_document_is_recognised_by_its_text_and_not_by_its_bytes_or_times(document: Path) -> None:
    manifest = manifest_of(document)

    states = [document_state(manifest)]
    for content in (b"\xef\xbb\xbfThe mill has one wheel.\r\n", b"The mill has two wheels.\n", b"\xff\xfe"):
        document.write_bytes(content)
        states.append(document_state(manifest))

    assert states == ["unchanged", "unchanged", "changed", "changed"]
    note = stale_note(manifest)
    assert note is not None and f"its document {document} has changed" in note


def test_a_document_that_cannot_be_compared_is_not_called_changed(document: Path, tmp_path: Path) -> None:
    manifest = manifest_of(document)
    os.mkfifo(tmp_path / "pipe")

    states = {
        state: document_state(replace(manifest, document_path=path))
        for state, path in {
            "no path": None,
            "relative": "manual.txt",
            "a pipe": str(tmp_path / "pipe"),
            "a folder": str(tmp_path),
            "gone": str(tmp_path / "none"),
            "a zero byte": "/a\0b",
        }.items()
    }

    assert states == {
        "no path": "unknown",
        "relative": "unknown",
        "a pipe": "unknown",
        "a folder": "unknown",
        "gone": "missing",
        "a zero byte": "missing",
    }
    assert document_state(replace(manifest, document_sha256=None)) is None
    assert stale_note(replace(manifest, document_path=str(tmp_path / "none"))) is None
