"""The reference says all that the package has, and says it now."""

import re
import subprocess
import sys
from pathlib import Path

import generate_llms
import generate_reference
import pytest
import yaml
from doc_pages import CHECKOUT, all_pages
from links_outside import adapted

CONF = CHECKOUT / "conf"
REFERENCE = CHECKOUT / "docs/reference"
NODES = [path for path in sorted(CONF.rglob("*.yaml")) if path.parent != CONF and path.parent.name != "experiment"]
BUILDING = [path for path in NODES if "_target_" in path.read_text(encoding="utf-8")]


def keys_of(path: Path) -> set[str]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {str(key) for key in content if not str(key).startswith("_")} - {"defaults"}


def rows_of(page: str) -> dict[str, list[list[str]]]:
    """The cells of a page's settings, by key; a key may be there for several classes."""
    rows: dict[str, list[list[str]]] = {}
    for line in (REFERENCE / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            key, *cells = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            rows.setdefault(key.strip("`"), []).append(cells)
    return rows


@pytest.mark.parametrize("path", BUILDING, ids=lambda path: path.relative_to(CONF).with_suffix("").as_posix())
def test_every_key_of_a_group_has_a_type_a_default_and_a_meaning(path: Path) -> None:
    rows = rows_of("configuration.md")
    group = path.parent.relative_to(CONF).as_posix().replace("/", ".")

    for key in keys_of(path):
        for cells in rows[f"{group}.{key}"]:
            assert len(cells) == 3
            assert all(cells), key


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_setting_of_a_verb_has_a_type_a_default_and_a_meaning(path: Path) -> None:
    text = (REFERENCE / "commands.md").read_text(encoding="utf-8")
    section = re.search(rf"^## `{path.stem}`\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)

    assert section is not None
    for key in keys_of(path):
        assert re.search(rf"^\| `{key}` \| \S.* \| \S.* \| \S.* \|$", section[1], re.MULTILINE), key


def test_no_meaning_needs_the_name_before_it_to_be_a_phrase() -> None:
    rows = {**rows_of("configuration.md"), **rows_of("commands.md"), **rows_of("record.md"), **rows_of("bundle.md")}

    fragments = [
        (key, one[-1]) for key, cells in rows.items() for one in cells if re.match(r"(Of|Likewise|As in)\b", one[-1])
    ]
    assert fragments == []


def test_the_generated_sections_are_what_the_package_has_now() -> None:
    assert [path.name for path in generate_reference.out_of_date(write=False)] == [], "run: make docs"


def test_a_section_that_is_out_of_date_is_found_and_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: methods -->\nold\n<!-- end: methods -->\nafter\n")

    assert generate_reference.out_of_date(write=False, pages=tmp_path) == [page]
    assert generate_reference.out_of_date(write=True, pages=tmp_path) == [page]

    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "`prefix_tuning`" in text
    assert "old" not in text
    assert generate_reference.out_of_date(write=False, pages=tmp_path) == []


def test_the_listing_for_language_models_has_every_page_with_a_line_about_it() -> None:
    listing = (CHECKOUT / "docs/llms.txt").read_text(encoding="utf-8")
    pages = {p.relative_to(CHECKOUT / "docs").as_posix() for p in all_pages() if p.is_relative_to(CHECKOUT / "docs")}
    listed = dict(re.findall(r"^- \[[^\]]+\]\(([^)]+)\): (.+)$", listing, re.MULTILINE))

    assert listing.startswith("# ptl_prefix\n\n> ")
    assert set(listed) == {page for page in pages if not page.endswith("index.md")}
    assert generate_llms.listing() == listing, "run: make docs"


def test_links_that_leave_the_pages_lead_to_what_the_site_has() -> None:
    def shown(text: str) -> str:
        return adapted(text, folder=CHECKOUT / "docs/how-to", docs=CHECKOUT / "docs", page="how-to/page")

    assert shown("see [the log](../../LOG.md#a)") == "see [the log](../project/log.md#a)"
    assert shown("[a](../reference/record.md#b) [c](other.md)") == "[a](../reference/record.md#b) [c](other.md)"
    assert shown("[`conf/`](../../conf) [x](https://example.org) ![y](z.svg)") == (
        "`conf/` [x](https://example.org) ![y](z.svg)"
    )
    assert adapted("[a](docs/index.md)", folder=CHECKOUT, docs=CHECKOUT / "docs", page="project/log") == (
        "[a](../index.md)"
    )


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_without_changing_a_page(tmp_path: Path) -> None:
    flags = ["--nitpicky", "--fail-on-warning", "--keep-going", "--quiet", "-D", "generated=check"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *flags, CHECKOUT / "docs", tmp_path / "site"],
        capture_output=True,
        text=True,
        timeout=600,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index.html", "llms.txt", "reference/commands.html", "reference/commands.md"):
        assert (tmp_path / "site" / page).is_file()
