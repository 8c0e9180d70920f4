"""What the documents say is so: their blocks run, their links lead somewhere, their numbers have a source."""

from collections.abc import Callable
from pathlib import Path

import pytest
from doc_composing import refused
from doc_links import broken_links
from doc_numbers import tables_without_source, too_long
from doc_pages import CHECKOUT, all_pages, page_name, read_page
from doc_sandbox import run_page

PAGES = all_pages()

every_page = pytest.mark.parametrize("path", PAGES, ids=page_name)


def pages_with(is_wanted: Callable[[Path], bool]) -> list[object]:
    """The pages of which something is true, each as a case of its name; slow pages are slow cases."""
    return [
        pytest.param(path, id=page_name(path), marks=[pytest.mark.slow] if read_page(path).is_slow else [])
        for path in PAGES
        if is_wanted(path)
    ]


def runs_something(path: Path) -> bool:
    return any(not {"parse", "skip"} & set(block.markers) for block in read_page(path).active)


def parses_something(path: Path) -> bool:
    return any("parse" in block.markers for block in read_page(path).blocks)


@pytest.mark.parametrize("path", pages_with(runs_something))
def test_the_blocks_of_a_page_run_as_they_stand(path: Path, tmp_path: Path) -> None:
    assert "\n".join(map(str, run_page(read_page(path), tmp_path))) == ""


@pytest.mark.parametrize("path", [p for p in PAGES if parses_something(p)], ids=page_name)
def test_commands_that_cannot_run_here_compose(path: Path) -> None:
    blocks = [block for block in read_page(path).blocks if "parse" in block.markers]

    assert [problem for block in blocks for problem in refused(block)] == []


@every_page
def test_every_link_of_a_page_leads_somewhere(path: Path) -> None:
    assert broken_links(path) == []


@every_page
def test_every_table_with_measured_numbers_names_their_source(path: Path) -> None:
    assert tables_without_source(path.read_text(encoding="utf-8")) == []


def test_the_readme_is_short() -> None:
    assert too_long((CHECKOUT / "README.md").read_text(encoding="utf-8")) == []
