"""Whatever standard output is connected to, there is no traceback."""

import errno
import io
import os
import sys
from contextlib import suppress

import pytest

from ptl_prefix.commands import main, standard_streams


class Unwritable(io.StringIO):
    """An output that fails when it is written, or only when its buffer is flushed at the end."""

    def __init__(self, number: int, *, at_once: bool) -> None:
        super().__init__()
        self._number, self._at_once = number, at_once

    def write(self, text: str) -> int:
        if self._at_once:
            self.flush()
        return super().write(text)

    def flush(self) -> None:
        raise OSError(self._number, os.strerror(self._number))


def test_characters_that_a_console_lacks_are_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))

    standard_streams.escape_unknown_characters()
    print("caf\u00e9 \u2713", flush=True)

    assert written.getvalue() == b"caf\\xe9 \\u2713\n"


def test_only_errors_of_the_output_are_explained() -> None:
    assert "is full" in str(standard_streams.output_failure(OSError(errno.ENOSPC, "")))
    assert "was closed" in str(standard_streams.output_failure(OSError(errno.EPIPE, "")))
    assert standard_streams.output_failure(OSError(errno.ENOENT, "")) is None


@pytest.mark.parametrize(("number", "sentences"), [(errno.ENOSPC, 1), (errno.EPIPE, 0)], ids=["full", "closed"])
@pytest.mark.parametrize("at_once", [True, False])
def test_an_output_that_takes_no_more_ends_with_a_sentence_or_silently_and_exit_code_1(
    number: int, sentences: int, at_once: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cli(**_: object) -> None:
        print("a table")
        raise SystemExit(0)

    monkeypatch.setattr(main, "cli", cli)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(sys, "stdout", Unwritable(number, at_once=at_once))

    with pytest.raises(SystemExit) as end:
        main.main()

    assert end.value.code == 1
    assert capsys.readouterr().err.count("Standard output must take everything") == sentences


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_unbuffered_output_that_is_full_ends_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(main, "cli", lambda **_: print("a table"))
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    full = io.FileIO("/dev/full", "w")
    output = io.TextIOWrapper(full, write_through=True)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdout", output)

    with pytest.raises(SystemExit) as end:
        main.main()

    monkeypatch.undo()
    with suppress(OSError):
        output.detach()
    full.close()
    assert end.value.code == 1
    assert capsys.readouterr().err.count("Standard output must take everything") == 1


def test_a_full_disk_elsewhere_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def cli(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoint")

    monkeypatch.setattr(main, "cli", cli)

    with pytest.raises(OSError, match="checkpoint"):
        main.main()
