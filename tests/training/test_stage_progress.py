import io
import re

import pytest
from rich.console import Console
from rich.progress import Progress

from ptl_prefix.training import stage_progress as stages
from ptl_prefix.training.progress_bar import bar_columns


def shown_in(console: Console, text: io.StringIO, **options: object) -> str:
    with stages.stage_progress(console, "decoding, input", 3, **options) as advance:  # type: ignore[arg-type]
        assert list(stages.tracked("abc", advance)) == ["a", "b", "c"]
    return text.getvalue()


def test_a_short_stage_prints_nothing_without_a_terminal_and_a_bar_on_one() -> None:
    piped, terminal, silent = io.StringIO(), io.StringIO(), io.StringIO()

    assert shown_in(Console(file=piped, force_terminal=False), piped) == ""
    assert "decoding, input" in shown_in(Console(file=terminal, force_terminal=True, width=80), terminal)
    assert shown_in(Console(file=silent, force_terminal=True), silent, shown=False) == ""


def test_a_long_stage_prints_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "LINE_EVERY_S", 0.001)
    printed = stages.threading.Event()
    text = io.StringIO()
    console = Console(file=text, force_terminal=False)
    monkeypatch.setattr(console, "print", lambda *words, **_: (text.write(f"{words[0]}\n"), printed.set()))

    with stages.stage_progress(console, "decoding, input", 8) as advance:
        advance(3)
        printed.clear()
        assert printed.wait(60)

    assert "decoding, input 3 of 8, 0 s, about 0 s left\n" in text.getvalue()


@pytest.mark.parametrize(
    ("total", "done", "share", "expected"),
    [(8, 3, None, ", about 100 s left"), (8, 0, None, ""), (None, 7, 0.25, ", about 180 s left"), (None, 7, None, "")],
)
def test_the_time_left_follows_from_what_is_done(
    total: int | None, done: int, share: float | None, expected: str
) -> None:
    stage = stages._Stage("decoding, input", total, "", done=done, share=share)

    assert stage.time_left(60.0) == expected


def test_a_stage_without_a_total_shows_its_count_and_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "LINE_EVERY_S", 0.001)
    lines: list[str] = []
    piped = Console(file=io.StringIO(), force_terminal=False)
    printed = stages.threading.Event()
    monkeypatch.setattr(piped, "print", lambda line, **_: (lines.append(line), printed.set()))
    drawn = io.StringIO()
    terminal = Console(file=drawn, force_terminal=True, width=80)

    for console in (piped, terminal):
        with stages.stage_progress(console, "encoding the validation split", unit="examples") as advance:
            for share in (0.2, 0.479):
                advance(1_000_000, share)
            printed.clear()
            assert console is terminal or printed.wait(60)

    assert "encoding the validation split 2,000,000 examples, 47%, 0 s, about 0 s left" in lines
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.getvalue())
    assert re.search(r"encoding the validation split 2,000,000 examples, 47% 0:00:0\d left \S+\s*$", shown), shown


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_time_left_is_never_cut(width: int) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=width)
    numbers = "loss 12.345  val/loss 12.345  123,456 tokens/s"
    bar = Progress(*bar_columns(width), console=console)
    task = bar.add_task("", total=100_000, completed=50_000, numbers=numbers)
    bar.tasks[task].finished_time = None

    console.print(bar.get_renderable())

    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue())
    assert re.search(r"left (-:--:--|\d+:\d\d:\d\d)", plain), plain
    assert "50000/100000" in plain
    assert len(plain.splitlines()) == 1
    assert width < 80 or "tokens/s" in plain
