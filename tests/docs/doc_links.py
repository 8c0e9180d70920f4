"""Links and anchors of a page.

In: the path of a page. Out: sentences about links that lead nowhere. A relative link must name a file or folder, and
its `#anchor` a heading or a label there; a link to the web is only looked at, not followed.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_FENCED = re.compile(r"^([ >]*)(`{3,}|~{3,})[^`\n]*\n.*?^[ >]*\2[`~]*[ ]*$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"\]\(\s*<?([^()\s<>]*(?:\([^()\s]*\)[^()\s]*)*)>?(?:\s+[\"'][^)]*)?\)")
_AUTOLINK = re.compile(r"<(https?://[^>\s]+)>")
_REFERENCE = re.compile(r"^\[[^\]]+\]:\s*<?(\S+?)>?\s*$", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)?$", re.MULTILINE)
_LABEL = re.compile(r"^\(([\w-]+)\)=\s*$|\{#([\w-]+)[^}]*\}|<a (?:id|name)=\"([\w-]+)\"", re.MULTILINE)
_WEB = re.compile(r"https?://[\w.-]+\.[a-z]{2,}(?::\d+)?(?:[/?#]\S*)?|http://(?:127\.0\.0\.1|localhost)(?::\d+)?\S*")


def broken_links(page: Path) -> list[str]:
    """Every link of a page that leads nowhere, with its line."""
    text = _without_code(page.read_text(encoding="utf-8"))
    found = ((line, link, _problem(page, link)) for line, link in _links(text))
    return [f"line {line}: {link} {problem}" for line, link, problem in found if problem]


def links_of(text: str) -> list[str]:
    """Where the links of a text lead, code left out."""
    return [link for _, link in _links(_without_code(text))]


@cache
def anchors_of(page: Path) -> frozenset[str]:
    """What may stand behind a `#`: headings as GitHub and the site name them, and explicit labels."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    seen: Counter[str] = Counter()
    anchors = set()
    for heading in _HEADING.findall(text):
        slug = _slug(heading)
        anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return frozenset(anchors | {name for names in _LABEL.findall(text) for name in names if name})


def _links(text: str) -> Iterator[tuple[int, str]]:
    for pattern in (_LINK, _AUTOLINK, _REFERENCE):
        for match in pattern.finditer(text):
            yield text.count("\n", 0, match.start()) + 1, match[1]


def _without_code(text: str) -> str:
    """The text with code and comments taken out, each line where it was."""
    for pattern in (_FENCED, _COMMENT, _CODE):
        text = pattern.sub(lambda match: "\n" * match[0].count("\n"), text)
    return text


def _slug(heading: str) -> str:
    text = re.sub(r"\{#[^}]*\}|!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "").strip()
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def _problem(page: Path, link: str) -> str | None:
    """Why a link leads nowhere; `None` if it leads somewhere."""
    if link.startswith("mailto:"):
        return None
    if "://" in link:
        return None if _WEB.fullmatch(link) else "is no address"
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page.resolve()
    if name.startswith("/"):
        return "must be relative to the page"
    if not target.exists():
        return "is no file or folder"
    if anchor and target.suffix == ".md" and anchor not in anchors_of(target):
        return "has no such heading or label"
    return None
