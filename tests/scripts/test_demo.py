"""The demo trains, serves, answers and ends, on data that it makes up."""

from pathlib import Path

import pytest
from support.command_lines import forked_command

from scripts import demo


@pytest.mark.slow
def test_the_demo_answers_by_name_and_by_auto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PTL_PREFIX_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(demo, "COMMAND", [forked_command()])

    demo.main(["--out", str(tmp_path), "--steps", "4", "--requests", "3"])

    printed = capfd.readouterr().out
    assert "auto: 9 of 9 requests went to the right task" in printed
    assert "18 requests in" in printed
    assert "in memory: the backbone once" in printed
    for name in ("summary", "tickets", "data-to-text"):
        assert f"{name}: a prefix of 10" in printed


def test_made_up_data_are_of_three_kinds(tmp_path: Path) -> None:
    tasks = demo.made_up_tasks(tmp_path)

    assert [task.name for task in tasks] == ["summary", "tickets", "data-to-text"]
    assert len((tmp_path / "tickets.jsonl").read_text().splitlines()) == 600
