"""Whatever standard output is connected to, there is no traceback."""

import errno
import io
import os
import sys

import pytest

from ptl_prefix.commands import main, standard_streams

FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


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


@FULL
@pytest.mark.parametrize("prints", [lambda: print("x" * 100_000), lambda: print("x")], ids=["at once", "at the end"])
def test_a_full_output_is_one_sentence_and_exit_code_1(
    prints: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cli(**_: object) -> None:
        prints()  # type: ignore[operator]
        raise SystemExit(0)

    monkeypatch.setattr(main, "cli", cli)
    monkeypatch.setattr(standard_streams.os, "dup2", lambda *_: None)
    with open("/dev/full", "w", closefd=True) as full, pytest.raises(SystemExit) as end:
        monkeypatch.setattr(sys, "stdout", full)
        try:
            main.main()
        finally:
            monkeypatch.undo()
            full.detach()  # its buffer cannot be written

    assert end.value.code == 1
    assert "Standard output must take everything that is printed, but it is full" in capsys.readouterr().err
