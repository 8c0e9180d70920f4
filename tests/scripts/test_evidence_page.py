"""Verdicts on published claims, and the page of the study, from comparisons alone."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.made_up_comparisons import made_up_comparison, made_up_row, made_up_table

from ptl_prefix.reporting.comparison_record import COMPARISON_FILE, read_comparison_record, write_comparison_record
from ptl_prefix.reporting.text_tables import as_csv
from scripts.evidence_claims import CLAIMS, Claim, Rows, verdicts
from scripts.evidence_page import draw, main, render
from scripts.evidence_parts import parts_for

ROOT = Path(__file__).resolve().parents[2]
CLAIM = Claim("A is better.", "a paper", "length", "test/bleu", Rows("prefix_tuning"), Rows("lora"))


def scores(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


@pytest.mark.parametrize(
    ("mine", "others", "answer"),
    [
        (scores(30, 31, 32), scores(20, 21.5, 22), "held"),
        (scores(20, 21.5, 22), scores(30, 31, 32), "not held"),
        (scores(20, 31, 25), scores(22, 28, 27), "not decided at this size"),
        (scores(30, 31), scores(20, 21.5), "not decided at this size"),  # two seeds carry no claim
    ],
)
def test_a_claim_is_held_only_if_the_interval_says_so(
    mine: dict[int, float], others: dict[int, float], answer: str
) -> None:
    table = made_up_table(made_up_row("prefix_tuning", mine), made_up_row("lora", others))

    [found] = verdicts([CLAIM], table)

    assert found.answer == answer
    assert found.rows == (1, 2)


def test_the_best_of_the_rows_that_a_claim_speaks_of_is_compared() -> None:
    short, long = {"method.prefix_length": 1}, {"method.prefix_length": 10}
    table = made_up_table(
        made_up_row("lora", scores(25, 26, 27)),
        made_up_row("prefix_tuning", scores(10, 11, 12.5), settings=short),
        made_up_row("prefix_tuning", scores(30, 31, 32.5), settings=long),
    )
    only_short = replace(CLAIM, better=Rows("prefix_tuning", short))

    both = verdicts([CLAIM, only_short], table)

    assert [(found.answer, found.rows) for found in both] == [("held", (3, 1)), ("not held", (2, 1))]


def test_a_claim_about_rows_that_are_not_there_is_not_decided() -> None:
    missing = replace(CLAIM, than=Rows("adapter"))
    table = made_up_table(made_up_row("prefix_tuning", scores(30, 31, 32)), made_up_row("lora", scores(20, 21.5, 22)))

    found = verdicts([missing, CLAIM], table)

    assert [(one.answer, one.numbers[:12]) for one in found] == [
        ("not decided at this size", "no such rows"),
        ("held", found[1].numbers[:12]),
    ]


def test_every_claim_is_about_a_part_of_the_study() -> None:
    assert {claim.part for claim in CLAIMS} <= {part.name for part in parts_for(Path("data"))}


def test_the_page_is_made_from_the_records_of_the_finished_parts(tmp_path: Path) -> None:
    table = made_up_table(
        made_up_row("prefix_tuning", scores(30, 31, 32), settings={"method.prefix_length": 10}),
        made_up_row("prefix_tuning", scores(20, 21.5, 22), settings={"method.prefix_length": 1}),
        caveats=("A caveat.",),
    )
    (tmp_path / "length").mkdir()
    write_comparison_record(tmp_path / "length" / COMPARISON_FILE, made_up_comparison(table))

    main(["--evidence", str(tmp_path), "--page", str(tmp_path / "page.md")])

    page = (tmp_path / "page.md").read_text()
    assert "How long should a prefix be?" in page
    assert "A caveat." in page
    assert "Not run yet: `reparam`" in page
    assert "Not testable at this size" in page
    assert "$PTL_PREFIX_DATA" in page  # the command holds on any machine
    assert (tmp_path / "length/quality.svg").stat().st_size > 1000
    assert (tmp_path / "length/curve.svg").stat().st_size > 1000


def test_the_page_in_the_documentation_is_that_of_its_records() -> None:
    page, evidence = ROOT / "docs/explanation/evidence.md", ROOT / "docs/evidence"
    if not page.is_file():
        pytest.skip("no part of the study has been published yet")

    assert page.read_text(encoding="utf-8") == render(evidence)
    for path in sorted(evidence.glob(f"*/{COMPARISON_FILE}")):
        assert path.with_suffix(".csv").read_text(encoding="utf-8") == as_csv(read_comparison_record(path))


def test_a_plot_needs_no_bare_backbone(tmp_path: Path) -> None:
    draw(made_up_table(made_up_row("lora", scores(1, 2, 3)), bare={}), tmp_path / "plot.svg")

    assert (tmp_path / "plot.svg").is_file()
