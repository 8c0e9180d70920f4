"""Notebooks of the documentation, executed in a real kernel.

In: a notebook. Out: the same with the outputs of now. Run as a program, it writes them into the notebook:
`python tests/support/notebooks.py docs/tutorials/*.ipynb`.
"""

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat

DOCS = Path(__file__).resolve().parents[2] / "docs"
VARIES = "generated"
"""Tag of a cell whose output is text that a model generated, which may differ from one processor to the next."""

_NUMBER = re.compile(r"\d[\d,.]*\d|\d")
_RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")


def notebooks() -> list[Path]:
    """The notebooks of the documentation."""
    return [path for path in sorted(DOCS.rglob("*.ipynb")) if "_build" not in path.parts]


def executed(path: Path, folder: Path) -> Any:
    """The notebook with the outputs of now, executed in a folder; paths in it are relative to the folder.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        startup_timeout=1800,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
    )
    client.execute()
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = _joined(cell.outputs)
            for output in cell.outputs:
                _without_folder(output, str(folder.resolve()))
    return notebook


def _joined(outputs: list[Any]) -> list[Any]:
    """The outputs, with what was printed between two others as one."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output["output_type"] == "stream" and joined[-1].get("name") == output["name"]:
            joined[-1]["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def _without_folder(output: Any, folder: str) -> None:
    for content in filter(None, [output.get("data"), output]):
        for name, text in content.items():
            if isinstance(text, str):
                content[name] = text.replace(f"{folder}/", "")


def readable(notebook: Any) -> list[str]:
    """What a notebook shows, cell by cell: the lines of its outputs, with `#` in place of every number.

    Numbers differ from one processor to the next, and times from one run to the next. So do the order of a
    comparison's rows, its marks of significance and their legend: lines are sorted, and the marks left out. Progress is
    left out, too: a bar only appears where something takes long.
    """
    return [line for number, cell in enumerate(notebook.cells) for line in sorted(_shown(number, cell))]


def _shown(number: int, cell: Any) -> Iterator[str]:
    outputs = cell.get("outputs", ())
    printed = "".join(output["text"] for output in outputs if output["output_type"] == "stream")
    printed = re.sub(r"(?ms)^ +source  .*?^run: ", "run: ", printed)  # the decoded examples
    yield from (f"cell {number}: {_masked(line)}" for line in printed.splitlines() if not _is_of_the_moment(line))
    for output in outputs:
        data = output.get("data", {})
        if not data or "text/html" in data:
            continue
        yield f"cell {number}: {output['output_type']} {' '.join(sorted(data))}"
        text = data.get("text/markdown", "" if "image/png" in data else data["text/plain"])
        if VARIES not in cell.metadata.get("tags", ()):
            yield from (_masked(line) for line in text.splitlines() if not _is_of_the_moment(line))


def _masked(line: str) -> str:
    line = _NUMBER.sub("#", _RUN_ID.sub("#", line))
    line = re.sub(r"# [kMG]?B\b", "# B", line)
    line = re.sub(r"\*\*| [≈?](?= \|)", "", line)  # the best row's, and what it is not significantly better than
    return re.sub(r"[ ─━═]+", " ", line).rstrip()


def _is_of_the_moment(line: str) -> bool:
    """Whether a line is about the state of the checkout, or explains marks that another processor may not give."""
    return re.match(r"- (Some r|R)uns used |±: ", line) is not None


def main(paths: list[str]) -> None:
    """Execute notebooks, and store their outputs in them."""
    for path in map(Path, paths):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path.resolve(), Path(folder))
        nbformat.write(notebook, path)
        print(f"{path}: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
