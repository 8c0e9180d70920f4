"""Fills the generated sections of the reference pages: `python docs/generate_reference.py [--check]`.

In: pages with sections between `<!-- generated: NAME -->` and `<!-- end: NAME -->`, and the package. Out: the same
pages, each section as the package has it now. `--check` writes nothing and exits with 1 if a page is out of date.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import package_facts as facts

PAGES = Path(__file__).resolve().parent / "reference"
_SECTION = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty columns are left out."""
    rows = [[_cell(cell) for cell in row] for row in rows]
    kept = [place for place in range(len(header)) if any(row[place] for row in rows)]
    lines = [[header[place] for place in kept], ["---"] * len(kept), *([row[place] for place in kept] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    """Text that stays in its cell, and is no markup by accident."""
    outside = re.split(r"(`+[^`]*`+)", text)
    outside[::2] = [re.sub(r"([<*])", r"\\\1", part) for part in outside[::2]]
    return "".join(outside).replace("|", "\\|").replace("`None`", "`null`").replace("`True`", "`true`")


def settings_table(settings: Iterable[facts.Setting], prefix: str = "") -> str:
    """Settings with types, defaults and meanings."""
    rows = [(f"`{prefix}{one.key}`", one.type, one.default, one.meaning) for one in settings]
    return table(("setting", "type", "default", "meaning"), rows)


# Sections


def commands() -> Iterator[str]:
    """Each verb that reads a config, then those that only list."""
    for verb in facts.verbs():
        yield f"## `{verb.name}`\n\n{verb.summary}\n\n```text\n{verb.usage}\n```\n"
        if any(choice for choice in verb.groups.values()) or len(verb.groups) > 1:
            named = ", ".join(f"[`{name}`](configuration.md#{name})" for name in verb.groups if name in _WITH_SETTINGS)
            yield f"Groups, whose settings are in [Configuration](configuration.md): {named}.\n"
        yield settings_table(verb.settings)
        lines = [f"# {what}\n{command}" for command, what in verb.examples]
        yield "Examples:\n\n```text\n" + "\n\n".join(lines) + "\n```\n"


_WITH_SETTINGS = (
    "backbone",
    "task",
    "method",
    "data",
    "optimizer",
    "trainer",
    "generation",
    "evaluation",
    "training",
    "tracking",
    "self_study",
)


def listing_commands() -> Iterator[str]:
    """The verbs that list choices."""
    rows = [(f"`ptl-prefix {name}`", f"List the choices of `{group}=`.") for name, group in facts.catalogs().items()]
    yield table(("command", "what it does"), [*rows, ("`ptl-prefix metrics`", "List the metrics.")])


def flags() -> Iterator[str]:
    """Flags that every verb of a config takes."""
    yield table(
        ("flag", "what it does"), [(f"`{flag}`", f"{what[0].upper()}{what[1:]}.") for flag, what in facts.flags()]
    )


def configuration() -> Iterator[str]:
    """Each group: its choices, then the settings of every class that they build."""
    for group in facts.groups():
        default = f" `train` takes `{group.default}` if none is chosen." if group.default else ""
        yield f"## `{group.name}`\n\nSelect with `{group.name}=<choice>`.{default}\n"
        yield table(("choice", "what it is"), [(f"`{one.name}`", one.summary) for one in group.choices])
        if group.shared:
            yield f"### `{group.name}` settings of every choice\n"
            yield settings_table(group.shared, prefix=f"{group.name.replace('/', '.')}.")
        for node in group.nodes:
            if node.settings:
                named = ", ".join(f"`{name}`" for name in node.choices)
                yield f"### `{group.name}` settings of {named}\n\nThey are the arguments of `{node.target}`.\n"
                yield settings_table(node.settings, prefix=f"{group.name.replace('/', '.')}.")


def metrics() -> Iterator[str]:
    """Every metric."""
    rows = [(f"`{one.name}`", one.summary, one.scale, one.direction, one.library) for one in facts.metrics()]
    yield table(("metric", "what it is", "scale", "better", "library"), rows)


def tasks() -> Iterator[str]:
    """Every task."""
    rows = [
        (f"`{one.name}`", one.summary, ", ".join(f"`{name}`" for name in one.metrics), one.version)
        for one in facts.tasks()
    ]
    yield table(("task", "what it is", "metrics", "version"), rows)


def choices_of(group: str) -> Callable[[], Iterator[str]]:
    """A section with the choices of one group."""

    def section() -> Iterator[str]:
        yield table((f"`{group}=`", "what it is"), [(f"`{one.name}`", one.summary) for one in facts.choices(group)])

    return section


def fields_of(document: str) -> Callable[[], Iterator[str]]:
    """A section with the fields of a file."""

    def section() -> Iterator[str]:
        for part, settings in facts.fields(document):
            if part:
                yield f"### Fields of `{part}`\n"
            yield table(("field", "type", "meaning"), [(f"`{one.key}`", one.type, one.meaning) for one in settings])

    return section


def experiments() -> Iterator[str]:
    """Every experiment with the score to expect, by task."""
    found = list(facts.experiments())
    for task in dict.fromkeys(one.chosen["task"] for one in found):
        of_task = [one for one in found if one.chosen["task"] == task]
        rows = [
            (f"`{one.name}`", f"`{one.chosen['backbone']}`", f"`{one.chosen['method']}`", one.expect) for one in of_task
        ]
        yield f"## Experiments on `{task}`\n\nAs `ptl-prefix experiments` lists them:\n"
        yield table(("`experiment=`", "backbone", "method", "score to expect"), rows)


SECTIONS: dict[str, Callable[[], Iterator[str]]] = {
    "commands": commands,
    "listing-commands": listing_commands,
    "flags": flags,
    "configuration": configuration,
    "metrics": metrics,
    "tasks": tasks,
    "methods": choices_of("method"),
    "backbones": choices_of("backbone"),
    "studies": choices_of("sweeps"),
    "experiments": experiments,
    **{f"fields-{document}": fields_of(document) for document in facts.DOCUMENTS},
}


def filled(text: str) -> str:
    """A page with its sections as the package has them now."""

    def section(match: re.Match[str]) -> str:
        return "\n".join([match[1], *SECTIONS[match[2]](), match[3]])

    return _SECTION.sub(section, text)


def out_of_date(*, write: bool, pages: Path = PAGES) -> list[Path]:
    """The pages whose sections differ from the package; they are written if `write` says so."""
    found = []
    for path in sorted(pages.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            found.append(path)
            if write:
                path.write_text(new, encoding="utf-8")
    return found


def main() -> int:
    """The command line."""
    is_check = "--check" in sys.argv[1:]
    found = out_of_date(write=not is_check)
    for path in found:
        print(f"{path.name} {'is out of date; run: make docs' if is_check else 'was written'}")
    return int(is_check and bool(found))


if __name__ == "__main__":
    sys.exit(main())
