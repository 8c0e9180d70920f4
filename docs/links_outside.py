"""Links from a page to files of the checkout that are no pages, as the site shows them.

In: the source of a page, in which links are those of a checkout. Out: the same, where a link to `LOG.md`,
`CHANGELOG.md` or `CONTRIBUTING.md` leads to the page of the site that shows that file, one to `README.md` leads to the
first page, and one to code or to a folder is only its text: the site has neither.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

CHECKOUT = Path(__file__).resolve().parents[1]
SHOWN = {
    "LOG.md": "project/log",
    "CHANGELOG.md": "project/changelog",
    "CONTRIBUTING.md": "project/contributing",
    "README.md": "index",
}
"""Files of the checkout, with the page that stands for each."""

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s#:]+)(#[^()\s]*)?\)")


def adapt_links(app: Sphinx, docname: str, source: list[str]) -> None:
    """Sphinx calls this for each page; a page that stands for a file of the checkout gets that file's text."""
    docs = Path(app.srcdir)
    file = next((CHECKOUT / name for name, page in SHOWN.items() if page == docname != "index"), None)
    text, folder = source[0], (docs / docname).parent
    if file is not None and file.is_file():
        app.env.note_dependency(str(file))
        text, folder = file.read_text(encoding="utf-8"), CHECKOUT
    source[0] = adapted(text, folder=folder, docs=docs, page=docname)


def adapted(text: str, *, folder: Path, docs: Path, page: str) -> str:
    """The text of a page with its links as the site has them.

    Args:
        text: The page's source.
        folder: Where its relative links start.
        docs: The folder of the site's sources.
        page: Name of the page in the site.
    """

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match[1], match[2], match[3] or ""
        path = Path(os.path.normpath(folder / target))
        if path.is_relative_to(docs):
            wanted = path.relative_to(docs).as_posix()
        elif path.parent == CHECKOUT and path.name in SHOWN:
            wanted = f"{SHOWN[path.name]}.md"
            anchor = (
                "" if path.name == "README.md" else anchor
            )  # the first page is not the README, and has other headings
        else:
            return words
        relative = os.path.relpath(docs / wanted, (docs / page).parent)
        return f"[{words}]({Path(relative).as_posix()}{anchor})"

    return _LINK.sub(link, text)
