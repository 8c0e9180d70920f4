"""The study of three real documents: its commands, and its page from reports alone."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.made_up_reports import condition, made_up_report
from support.made_up_runs import MadeUp
from support.made_up_studies import PROMPT, write_untaught_study
from support.tiny_runs import embedded_tokenizer

from ptl_prefix.artifacts.document_report import write_document_report
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import write_record
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.commands.main import cli
from scripts.document_page import EVIDENCE, PAGE, main, render
from scripts.document_study import Training, trainings
from scripts.document_trainings import (
    add_seconds,
    counts_sentence,
    read_trainings,
    trainings_grid,
    trainings_of,
    write_trainings,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("one", [trainings("manual")[0], trainings("manual")[-1]], ids=["prefix", "prompt"])
def test_its_commands_are_accepted(one: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs/documents").mkdir(parents=True)
    Path("outputs/documents/manual.txt").write_text("The mill was built in 1847. " * 40, encoding="utf-8")
    words = one.command()[3:]
    assert "backbone=smollm2" in words
    words[words.index("backbone=smollm2")] = "backbone=tiny_gpt2"

    result = CliRunner().invoke(cli, [*words, "self_study.chunk_tokens=128", "dry_run=true"])

    assert result.exit_code == 0, result.output
    assert "60 of 16 rows" in result.output


def test_a_killed_training_is_resumed_and_a_finished_one_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = Training("manual", "prefix", 64)
    run = RunFolder(one.folder)
    run.checkpoints.mkdir(parents=True)
    run.last.touch()
    assert one.command()[3:] == ["distill", f"resume={one.folder}"]
    write_record(run.record, MadeUp(status="stopped").record())
    assert one.command()[3:] == ["distill", f"resume={one.folder}"]

    write_record(run.record, MadeUp(status="finished").record())

    assert one.command() == []


def test_the_page_is_made_from_the_reports(tmp_path: Path) -> None:
    write_document_report(tmp_path / "manual.json", made_up_report())
    other = made_up_report(results=(condition("no context", "no context", 0, 6.25),), compared_to="no context")
    write_document_report(tmp_path / "other.json", other)

    main(["--evidence", str(tmp_path), "--page", str(tmp_path / "page.md")])

    page = (tmp_path / "page.md").read_text()
    assert page.index("## manual") < page.index("| first 16 tokens | 4.50") < page.index("## other")
    assert "| no context | 6.25" in page
    assert (tmp_path / "manual.svg").stat().st_size > 1000


def test_the_costs_of_trainings_are_those_of_their_records_and_commands(tmp_path: Path) -> None:
    study = write_untaught_study(tmp_path / "study", Prompter(embedded_tokenizer(), PROMPT)).facts
    run = RunFolder(tmp_path / "prefix-64")
    run.bundle.mkdir(parents=True)
    (run.bundle / "manifest.json").write_bytes(b"x" * 1_500_000)
    write_record(run.record, MadeUp(trained=1_234, task_settings={"self_study": str(tmp_path / "study")}).record())
    add_seconds(run.path, 30.0)  # killed
    add_seconds(run.path, 70.0)

    write_trainings(tmp_path / "costs.json", trainings_of([run.path]))

    found = read_trainings(tmp_path / "costs.json")
    assert counts_sentence(found).startswith(f"Of {study.counts.asked} questions, {study.counts.kept} conversations")
    assert [cell.text for cell in trainings_grid(found).rows[0]][:3] == ["prefix-64", "1,234", "1.50"]
    assert found.trainings[0].command_s == 100.0


def test_the_page_in_the_documentation_is_that_of_its_reports() -> None:
    reports = sorted((ROOT / EVIDENCE).glob("*.json"))
    if not reports:
        pytest.skip("no document of the study has been published yet")

    assert (ROOT / PAGE).read_text(encoding="utf-8") == render(ROOT / EVIDENCE)
    assert all("/" not in json.loads(path.read_text(encoding="utf-8"))["document"][:1] for path in reports)
