"""The notebooks of the documentation show what they show when they are executed."""

from pathlib import Path

import nbformat
import pytest
from support.notebooks import executed, notebooks, readable

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_a_notebook_has_the_outputs_of_now(path: Path, tmp_path: Path) -> None:
    stored = nbformat.read(path, as_version=4)

    found = executed(path, tmp_path)

    # A notebook without any stored output shows nothing that could be out of date.
    assert readable(stored) in ([], readable(found)), f"python tests/support/notebooks.py {path} writes those of now"
    assert not [output for cell in found.cells for output in cell.get("outputs", ()) if output.get("name") == "stderr"]


def test_there_are_notebooks_that_are_tested() -> None:
    assert [path.stem for path in notebooks()] == ["compare_on_your_csv", "first_run_in_a_notebook"]
