"""`make bench`: the page follows from stored results alone, within the promised time, and failures are told."""

import json
import textwrap
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import benchmarks.__main__ as runner
from benchmarks.page import Result, read_result, result_path, write_page
from benchmarks.parts import PARTS, Part

HERE = Path(__file__).parents[2] / "benchmarks"
RATIO = {"median": 0.5, "low": 0.4, "high": 0.6}
ENVIRONMENT = {
    "cpu": "A CPU",
    "cores": 2,
    "devices": [],
    "python": "3.11.1",
    "libraries": {"torch": "2.13.0", "transformers": "5.23.0"},
}
STEP = {"label": "ours", "num_trained": 1234, "step_s": 0.25, "peak_memory_bytes": None, "speed_over_full": None}
FROZEN: dict[str, Any] = {"shape": "gpt2", "num_layers": 6, "step_s": 0.2, "plain_over_all": RATIO}
LAYOUT = {"task": "e2e", "computed_per_needed": 1.01, "tokens_per_plain": 0.9, "training": 0.8, "validation": 0.7}
FIRST_TRIAL = {"first_trial_s": 9.0, "server_s": 8.5, "command_cpu_s": 1.5}
REPORTS: dict[str, dict[str, Any]] = {
    "step_time": {"measured": [{"setting": {"shape": "gpt2"}, "measurements": [{**STEP, "speed_over_peft": RATIO}]}]},
    "prefix_vs_peft": {
        "bare": 4.5,
        "results": [
            {"label": "ours", "lr": 1e-3, "num_trained": 12, "val_loss_by_step": {"0": 4.0, "20": 2.0, "100": end}}
            for end in (1.0, 1.5)
        ],
    },
    "frozen_layers": {
        "measurements": [
            {
                **FROZEN,
                "layers": "all layers",
                "cached_step_s": None,
                "cached_over_plain": None,
                "pays_after_epochs": None,
            },
            {
                **FROZEN,
                "layers": "upper half",
                "cached_step_s": 0.1,
                "cached_over_plain": RATIO,
                "pays_after_epochs": 0.7,
            },
        ]
    },
    "row_layouts": {"measurements": [{**LAYOUT, "layout": "packing"}]},
    "decode_time": {"seconds": {"bare backbone": [1.0, 2.0, 3.0]}, "times_bare": {"bare backbone": 1.0}},
    "serving": {"tokens_per_s": {"base": [90.0, 110.0]}, "ratios": [["mixed", "base", 0.97, 0.9, 1.0, ">= 0.95"]]},
    "cold_start": {"cpu_s": {"train": 10.5, "script": 10.0}, "ratio": 1.05, "help_cpu_s": 0.2},
    "sweep_start": {"a study": 20.0, "a process each": 100.0, "ratio": 0.2, **FIRST_TRIAL},
}


def store(folder: Path, part: Part) -> None:
    result = Result(
        f"python -m benchmarks.{part.module}", 12.3, "2026-11-30", {**REPORTS[part.module], **environment()}
    )
    path = result_path(folder, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(result)))


def environment() -> dict[str, Any]:
    return {"environment": ENVIRONMENT}


def test_the_page_has_the_table_the_plot_and_the_machine_of_each_result(tmp_path: Path) -> None:
    for part in PARTS:
        store(tmp_path, part)

    page = write_page(tmp_path).read_text(encoding="utf-8")
    plots = {path.name: path.read_bytes() for path in (tmp_path / "results").glob("*.svg")}
    again = write_page(tmp_path).read_text(encoding="utf-8")

    assert page == again
    assert {path.name: path.read_bytes() for path in (tmp_path / "results").glob("*.svg")} == plots
    assert set(plots) == {f"{part.module}.svg" for part in PARTS if part.bars}
    assert page.count("A CPU, 2 cores, Python 3.11.1, torch 2.13.0, transformers 5.23.0") == len(PARTS)
    for row in (
        "| gpt2 | ours | 1,234 | 250.0 |  |  | 0.50 (0.40-0.60) |",
        "| ours | 0.001 | 12 | 4.0000 | 1.2500 |",
        "| gpt2 | upper half (6) | 200.0 | 100.0 | 0.50 (0.40-0.60) | 0.50 (0.40-0.60) | 0.7 |",
        "| e2e | packing | 1.010 | 0.900 | 0.800 | 0.700 |",
        "| bare backbone | 2.00 | 3.00 | 1.000 |",
        "| mixed | base | 0.970 | 0.900 | 1.000 | >= 0.95 |",
        "| a study | 20.0 | 0.200 |",
        "| ptl-prefix train | 10.50 | 1.050 |",
    ):
        assert row in page


def test_a_part_that_was_never_run_is_named(tmp_path: Path) -> None:
    store(tmp_path, PARTS[0])

    page = write_page(tmp_path).read_text(encoding="utf-8")

    assert page.count("Not measured yet.") == len(PARTS) - 1
    assert [page.count(f"## {part.title}\n") for part in PARTS] == [1] * len(PARTS)


def test_the_page_of_the_checkout_is_that_of_its_stored_results(tmp_path: Path) -> None:
    for part in PARTS:
        if result_path(HERE, part).is_file():
            path = result_path(tmp_path, part)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(result_path(HERE, part).read_bytes())

    assert write_page(tmp_path).read_text(encoding="utf-8") == (HERE / "README.md").read_text(encoding="utf-8")


def test_the_limits_are_an_hour_and_five_minutes() -> None:
    assert sum(part.limit_s for part in PARTS) <= 3600
    assert sum(part.quick_limit_s for part in PARTS if part.quick_words is not None) <= 300
    assert {part.module for part in PARTS} <= {path.stem for path in HERE.glob("*.py")}


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Part:
    """A benchmark that does what its first argument says."""
    package = tmp_path / "code" / "benchmarks"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sweep_start.py").write_text(
        textwrap.dedent(
            """
            import json, sys, time
            how, _, path = sys.argv[1:]
            if how == "slow":
                time.sleep(60)
            if how == "wrong":
                sys.exit(3)
            report = {"a study": 1.0, "a process each": 4.0, "ratio": 0.25, "environment": json.loads(how)}
            open(path, "w").write(json.dumps(report))
            """
        )
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.chdir(package.parent)
    return replace(PARTS[-1], words=[json.dumps(ENVIRONMENT)])


def test_a_result_is_stored_with_its_command(made_up: Part, tmp_path: Path) -> None:
    assert runner.run_all([made_up], tmp_path, quick=False) == []

    result = read_result(tmp_path, made_up)
    assert result is not None
    assert result.command.startswith("python -m benchmarks.sweep_start {")
    assert result.report["ratio"] == 0.25


@pytest.mark.parametrize(("how", "told"), [("slow", "must end within 1 s"), ("wrong", "but exited with 3")])
def test_a_part_that_fails_leaves_its_earlier_result(made_up: Part, tmp_path: Path, how: str, told: str) -> None:
    store(tmp_path, made_up)
    before = result_path(tmp_path, made_up).read_bytes()

    (problem,) = runner.run_all([replace(made_up, words=[how], limit_s=1)], tmp_path, quick=False)

    assert told in problem
    assert result_path(tmp_path, made_up).read_bytes() == before


def test_parts_without_data_or_without_a_quick_run_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PTL_PREFIX_DATA", raising=False)
    (layouts,) = (part for part in PARTS if part.module == "row_layouts")

    assert runner.run_all([layouts, PARTS[-1]], tmp_path, quick=True) == []

    assert "row_layouts: skipped, as it needs real data" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
