"""Progress in a notebook, without one: the kernel and what it displays are made up."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.jupyter_kernel import is_jupyter_kernel
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.training import notebook_output
from ptl_prefix.training.console import EscapingConsole
from ptl_prefix.training.train import train


class Cell:
    """What a cell shows: each of its outputs with all contents that it had, one after the other."""

    def __init__(self) -> None:
        self.outputs: list[list[dict[str, str]]] = []

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw and display_id
        contents = [content]
        self.outputs.append(contents)
        return types.SimpleNamespace(update=lambda new, *, raw: contents.append(new))


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    cell = Cell()
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=None)  # type: ignore[attr-defined]
    display = types.ModuleType("IPython.display")
    display.display = cell.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(notebook_output, "_UPDATE_EVERY_S", 0.0)
    return cell


def test_a_run_has_one_output_that_is_replaced(
    cell: Cell, tiny_runs: TinyRuns, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    by_metric = {"training__select_by": "val/exact_match", "training__select_examples": 2}

    train(tiny_runs.plan(**by_metric), RunFolder(tmp_path / "run"), console=EscapingConsole(stderr=True))

    (contents,) = cell.outputs
    assert [content["text/plain"].split(",")[0].split("\n")[0] for content in contents][:3] == [
        "train 0/6",
        "train 1/6",
        "train 2/6",
    ]
    assert " s left" in contents[2]["text/plain"]
    last = contents[-1]
    assert '<progress value="6" max="6"' in last["text/html"]
    assert last["text/html"].count("<tr>") == 3 and "<th>val/exact_match</th>" in last["text/html"]
    lines = last["text/plain"].splitlines()
    assert [line.split()[0] for line in lines] == ["train", "step", "3", "6"]
    printed = capfd.readouterr()
    assert "evaluating the bare tiny" in printed.out and printed.err == "", "a notebook shows standard error in red"
    assert "step 3/6" not in printed.out and "\x1b" not in printed.out


def test_a_quiet_run_shows_nothing(cell: Cell, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    train(tiny_runs.plan(trainer__max_steps=1), RunFolder(tmp_path / "run"), console=EscapingConsole(quiet=True))

    assert cell.outputs == []


def test_a_bar_appears_only_where_something_takes_long(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    bar = notebook_output.LiveBar("decode")
    bar.move(1, 4)
    assert cell.outputs == []

    monkeypatch.setattr(notebook_output, "_SHORT_S", 0.0)
    bar.move(2, 4)
    monkeypatch.setattr(notebook_output, "_UPDATE_EVERY_S", 99.0)
    bar.move(3, 4)
    bar.move(4, 4)

    assert [content["text/plain"][:10] for content in cell.outputs[0]] == ["decode 2/4", "decode 4/4"]


def test_this_process_is_no_kernel() -> None:
    assert not is_jupyter_kernel()
