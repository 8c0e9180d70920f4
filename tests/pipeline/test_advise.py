"""`ptl-prefix advise` from the command line and from Python."""

from pathlib import Path

import pytest
from support.command_lines import CommandLine, Invoke
from support.made_up_comparisons import LORA, made_up_comparison, made_up_row, made_up_table

import ptl_prefix
from ptl_prefix.errors import ComparisonError
from ptl_prefix.reporting import shipped_comparison
from ptl_prefix.reporting.comparison_record import write_comparison_record

HIGH, LOW = {0: 60.0, 1: 61.0, 2: 62.5}, {0: 50.0, 1: 51.2, 2: 52.4}


def write(folder: Path, backbone: str = "tiny") -> None:
    """Write a comparison of a prefix and LoRA."""
    rows = made_up_row("prefix_tuning", HIGH, stored=500), made_up_row("lora", LOW, settings=LORA, stored=200)
    write_comparison_record(folder / "comparison.json", made_up_comparison(made_up_table(*rows, backbone=backbone)))


def test_the_page_is_printed_and_written_beside_the_comparison(invoke: Invoke) -> None:
    write(Path("mine"))

    result = invoke("advise", "mine", "max_stored_parameters=1_000")

    assert (result.exit_code, result.stderr) == (0, "")
    page = Path("mine/advice.md").read_text()
    assert "Budget: max\\_stored\\_parameters=1,000." in page
    assert "**Recommended: #1 (prefix\\_tuning prefix\\_length=10)" in page
    assert "Recommended: #1 (prefix_tuning prefix_length=10)" in " ".join(result.stdout.split())
    assert result.stdout.splitlines()[-1] == "page: mine/advice.md"


def test_from_python_a_budget_changes_the_recommendation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("one"))
    write(Path("two"), backbone="big")

    advice = ptl_prefix.advise(
        "one", Path("two/comparison.json"), max_stored_parameters=300, metric="test/bleu", out="a/page.md"
    )

    assert [one.table.backbone for one in advice.tables] == ["tiny", "big"]
    assert [one.recommended and one.recommended.method for one in advice.tables] == ["lora", "lora"]
    assert Path("a/page.md").read_text().count("# towns on") == 2


@pytest.mark.parametrize(
    ("words", "code", "fact"),
    [
        ([], 1, "but this version ships none"),
        (["nowhere"], 1, "but nowhere is missing"),
        (["damaged"], 1, "damaged/comparison.json is not JSON"),
        (["mine", "metric=test/blue"], 1, "`metric` must be a metric of towns on tiny"),
        (["mine", "out=mine/comparison.json/x"], 1, "mine/comparison.json/x"),
        (["mine", "max_steps=-1", "max_stored=3"], 2, "The config has 2 mistakes"),
    ],
)
def test_mistakes_are_sentences(invoke: Invoke, words: list[str], code: int, fact: str) -> None:
    write(Path("mine"))
    Path("damaged").mkdir()
    Path("damaged/comparison.json").write_text("{")

    result = invoke("advise", *words)

    assert result.exit_code == code, result.output
    assert fact in result.stderr and "Traceback" not in result.stderr
    assert not Path("mine/advice.md").exists()


def test_what_the_package_ships_can_be_read(tmp_path: Path) -> None:
    """A folder that has a comparison, and the package's own, which has none yet."""
    write(tmp_path)

    assert shipped_comparison.shipped_comparison(tmp_path) == tmp_path / "comparison.json"
    with pytest.raises(ComparisonError, match="this version ships none"):
        shipped_comparison.shipped_comparison()


@pytest.mark.slow
def test_a_comparison_of_real_runs_is_advised_on(invoke: Invoke, command_line: CommandLine) -> None:
    """Which row is the best depends on the machine, so only what the page must hold is tested."""
    of_any_method = [word for word in command_line.small if not word.startswith("method.")]
    for method in ("method.prefix_length=2", "method.prefix_length=3", "method=lora"):
        for seed in (0, 1, 2):
            place = f"hydra.run.dir=runs/{method}/{seed}".replace("method.prefix_length=", "").replace("method=", "")
            result = invoke("train", *of_any_method, method, f"seed={seed}", place)
            assert result.exit_code == 0, result.output

    assert invoke("compare", "runs", "out=mine", "metric=val/loss").exit_code == 0
    result = invoke("advise", "mine")

    assert result.exit_code == 0, result.output
    (table,) = ptl_prefix.advise("mine").tables
    assert [len(row.runs) for row in table.table.rows] == [3, 3, 3]
    assert any("`prefix_length` from 2" in finding.text for finding in table.gains)
    assert any("the best row without a prefix" in finding.text for finding in table.against_prefix)
    assert not any(finding.kind == "untested" for finding in (*table.choice, *table.gains))
