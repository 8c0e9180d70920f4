"""Checks pages by hand: `python tests/docs [--slow] PAGE...`, all pages if none is named.

Runs a page's blocks, follows its links, and looks at its tables. Says what is wrong, and exits with 1 if anything is.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for `support`

from doc_composing import refused
from doc_links import broken_links
from doc_numbers import tables_without_source, too_long
from doc_pages import PageError, all_pages, page_name, read_page
from doc_sandbox import run_page


def problems_of(path: Path, *, slow: bool, run: bool) -> Iterator[str]:
    """What is wrong with a page."""
    text = path.read_text(encoding="utf-8")
    yield from broken_links(path)
    yield from tables_without_source(text)
    if path.name == "README.md":
        yield from too_long(text)
    try:
        page = read_page(path)
    except PageError as error:
        yield str(error)
        return
    for block in page.blocks:
        if "parse" in block.markers:
            yield from refused(block)
    if run and (slow or not page.is_slow):
        with tempfile.TemporaryDirectory() as folder:
            yield from map(str, run_page(page, Path(folder)))


def main() -> int:
    """Check the pages that are named."""
    parser = argparse.ArgumentParser(prog="python tests/docs", description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE")
    parser.add_argument("--slow", action="store_true", help="run slow pages, too")
    parser.add_argument("--no-run", action="store_true", help="run nothing: links, tables and markers alone")
    given = parser.parse_args()
    failed = 0
    for path in given.pages or all_pages():
        start = time.monotonic()
        found = list(problems_of(path, slow=given.slow, run=not given.no_run))
        failed += bool(found)
        print(f"{page_name(path)}: {'ok' if not found else ''} {time.monotonic() - start:.0f} s", flush=True)
        for problem in found:
            print(f"  {problem}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
