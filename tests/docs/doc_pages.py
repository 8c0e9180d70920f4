"""A Markdown page as its fenced blocks, each with the marker that stands before it.

In: the path of a page. Out: a `Page` of `Block`s in order. A marker is an HTML comment on the line before a fence,
`<!-- docs-test: output, slow -->`; `MARKERS` lists its words. A page that breaks a rule raises `PageError`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

MARKERS = {
    "output": "every shown line of output must be in the real output",
    "fails": "the commands must fail, and show the lines that are shown",
    "briefly": "settings that make a test of the block shorter, in place of its own: `briefly: <key>=<value>`",
    "slow": "the page takes long, so it belongs to `make test-slow`",
    "parse": "not run; its ptl-prefix commands are parsed, and their configs composed: `parse: <what it needs>`",
    "file": "the block is written to a file of this name instead of being run: `file: <name>`",
    "skip": "not run, as it is no command of this package: `skip: <reason>`",
    "checkout": "the page runs in a copy of the checkout instead of an empty folder",
}
NEEDS = ("GPU", "cluster", "hub", "W&B server", "data that is not shipped", "not installed")
"""What a block with `parse` may need: its reason names one of these."""

RUN = ("console", "python")
_FORBIDDEN = ("bash", "sh", "shell", "zsh", "shell-session")
_WITH_VALUE = ("parse", "file", "skip", "briefly")
_MARKER = re.compile(r"\s*<!-- *docs-test: *(.*?) *-->\s*")
_FENCE = re.compile(r"(?P<indent>[ >]*)(?P<fence>`{3,}|~{3,})(?P<language>[^`]*)")


class PageError(Exception):
    """A page that breaks a rule of blocks and markers; the message has its line."""


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Args:
        language: The word behind the fence; empty if there is none.
        text: What is inside, without the fence's indentation.
        line: The number of the fence's line, from 1.
        markers: Words of the marker before the block, with their values; empty ones for words that have none.
    """

    language: str
    text: str
    line: int
    markers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """A command of a console block with the output that is shown behind it."""

    text: str
    output: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """A page and its blocks."""

    path: Path
    blocks: tuple[Block, ...]

    @property
    def is_slow(self) -> bool:
        """Blocks of a page depend on each other, so one slow block makes all of them slow."""
        return self._has("slow")

    @property
    def in_checkout(self) -> bool:
        """Whether the page needs the files of a checkout around it."""
        return self._has("checkout")

    @property
    def active(self) -> tuple[Block, ...]:
        """Blocks that are run, parsed, written to a file or compared."""
        return tuple(block for block in self.blocks if block.language in RUN or block.markers)

    def _has(self, word: str) -> bool:
        return any(word in block.markers for block in self.blocks)


def all_pages(checkout: Path = CHECKOUT) -> list[Path]:
    """The pages whose blocks are run and whose links are checked."""
    named = [path for name in ("README.md", "CONTRIBUTING.md") if (path := checkout / name).is_file()]
    return [*named, *(p for p in sorted((checkout / "docs").rglob("*.md")) if "_build" not in p.parts)]


def page_name(path: Path) -> str:
    """What a test calls a page: its path below the checkout."""
    return path.resolve().relative_to(CHECKOUT).as_posix() if path.resolve().is_relative_to(CHECKOUT) else path.name


def read_page(path: Path) -> Page:
    """The blocks of a page.

    Raises:
        PageError: For a fence that is never closed, a language that is not used here or a marker that is unknown.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    blocks = tuple(_blocks(lines))
    for block in blocks:
        _check(block)
    return Page(path, blocks)


def commands_of(block: Block) -> list[Command]:
    """The commands of a console block: lines that begin with `$ `, continued by a backslash at their end."""
    found: list[tuple[list[str], list[str]]] = []
    is_continued = False
    for line in block.text.splitlines():
        if is_continued:
            found[-1][0].append(line)
        elif line.startswith("$ "):
            found.append(([line[2:]], []))
        elif found:
            found[-1][1].append(line)
        elif line.strip():
            raise PageError(f"line {block.line}: a console block must begin with `$ `, but begins with {line!r}")
        is_continued = bool(found) and not found[-1][1] and line.endswith("\\")
    return [Command("\n".join(text), tuple(output)) for text, output in found]


def _blocks(lines: Sequence[str]) -> Iterator[Block]:
    number = 0
    while number < len(lines):
        opened = _FENCE.fullmatch(lines[number])
        if opened is None:
            if _MARKER.fullmatch(lines[number]) and not _is_fence(lines, number + 1):
                raise PageError(f"line {number + 1}: a marker must stand directly before a fenced block")
            number += 1
            continue
        end = _closing(lines, number, opened["fence"])
        width = len(opened["indent"])
        inside = "".join(f"{line[width:]}\n" for line in lines[number + 1 : end])
        marker = _MARKER.fullmatch(lines[number - 1]) if number else None
        yield Block(opened["language"].strip(), inside, number + 1, _markers(marker[1], number) if marker else {})
        number = end + 1


def _is_fence(lines: Sequence[str], number: int) -> bool:
    return number < len(lines) and _FENCE.fullmatch(lines[number]) is not None


def _closing(lines: Sequence[str], start: int, fence: str) -> int:
    for number in range(start + 1, len(lines)):
        text = lines[number].strip(" >")
        if len(text) >= len(fence) and set(text) == {fence[0]}:
            return number
    raise PageError(f"line {start + 1}: the block is never closed")


def _markers(text: str, line: int) -> dict[str, str]:
    """The words of a marker; what follows a comma without being a word belongs to the reason before it."""
    found: dict[str, str] = {}
    for part in text.split(","):
        word, _, value = (piece.strip() for piece in part.partition(":"))
        if word in MARKERS:
            found[word] = value
        elif found and list(found)[-1] in _WITH_VALUE:
            found[list(found)[-1]] += f",{part}"
        else:
            raise PageError(f"line {line}: {word!r} is no word of a marker; those are: {', '.join(MARKERS)}")
    return found


def _check(block: Block) -> None:
    where = f"line {block.line}:"
    if block.language in _FORBIDDEN:
        raise PageError(f"{where} commands are shown in `console` blocks, but this one is `{block.language}`")
    for word in _WITH_VALUE:
        if block.markers.get(word) == "":
            raise PageError(f"{where} `{word}` must have a value: {MARKERS[word]}")
    if "parse" in block.markers and not any(need in block.markers["parse"] for need in NEEDS):
        raise PageError(f"{where} `parse` must say what is absent, one of: {', '.join(NEEDS)}")
    if "skip" in block.markers and "ptl-prefix " in block.text.replace("pip install ptl-prefix ", ""):
        raise PageError(f"{where} a block with ptl-prefix commands must not be skipped; `parse: <what it needs>` is")
    if block.markers and block.language not in RUN and not {"file", "output", "skip"} & set(block.markers):
        raise PageError(f"{where} a `{block.language}` block can only have the markers file, output and skip")
