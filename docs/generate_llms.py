"""Writes `docs/llms.txt`, the list of all pages for language models (llmstxt.org): `make docs`.

In: the pages, in the order of their indexes. Out: a title, a summary, and a section for each folder with a link and a
line for each page. A link ends in `.md`, which holds beside the sources and on the site: it has both.
"""

import re
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent
LISTING = DOCS / "llms.txt"
_MARKUP = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|[*`]|\{\w+\}")
_TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"^(`{3,}|:{3,}).*?^\1[ ]*$|<!--.*?-->", re.DOTALL | re.MULTILINE)


def pages_in(index: Path) -> Iterator[Path]:
    """The pages that an index lists, in its order; an index among them comes with its own."""
    text = index.read_text(encoding="utf-8")
    for toctree in _TOCTREE.findall(text):
        names = [line.strip() for line in toctree.splitlines() if line.strip() and not line.startswith(":")]
        yield from (page for name in names if (page := index.parent / f"{name}.md").is_file())


def title_of(page: Path) -> str:
    """The heading of a page."""
    found = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, page
    return _plain(found[1])


def summary_of(page: Path) -> str:
    """The first sentence of a page."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    paragraphs = [block for block in re.split(r"\n\s*\n", text) if block[:1].isalpha() or block[:1] in "`[*"]
    first = _plain(" ".join(paragraphs[0].split())) if paragraphs else ""
    return re.split(r"(?<=[.?]) (?=[A-Z`])", first)[0].rstrip(":")


def _plain(text: str) -> str:
    return _MARKUP.sub(lambda match: match[1] or "", text)


def listing(docs: Path = DOCS) -> str:
    """The whole file."""
    first = docs / "index.md"
    parts = [f"# {title_of(first)}\n", f"> {summary_of(first)}\n"]
    for index in pages_in(first):
        lines = [
            f"- [{title_of(page)}]({page.relative_to(docs).as_posix()}): {summary_of(page)}" for page in pages_in(index)
        ]
        parts.append("\n".join([f"## {title_of(index)}\n", *lines, ""]))
    return "\n".join(parts)
