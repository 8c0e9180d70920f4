"""`make bench`: the page follows from stored results alone, within the promised time, and failures are told."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import benchmarks.__main__ as runner
from benchmarks import run_sections
from benchmarks.goals import Goal
from benchmarks.page import Result, read_result, result_path, write_page
from benchmarks.parts import PARTS, Part, Run

HERE = Path(__file__).parents[2] / "benchmarks"
RATIO = {"median": 0.5, "low": 0.4, "high": 0.6}
LARGE_RATIO = {"median": 1.5, "low": 1.4, "high": 1.6}
ENVIRONMENT = {
    "cpu": "A CPU",
    "cores": 2,
    "devices": [],
    "python": "3.11.1",
    "libraries": {"torch": "2.13.0", "transformers": "5.23.0"},
}
INTERVAL = {"value": 0.9, "low": 0.8, "high": 1.0}
STEP: dict[str, Any] = {"label": "ours", "num_trained": 1234, "rounds": 3, "step_s": 0.25, "peak_memory_bytes": None}
STEP |= {"speed_over_full": None}
FROZEN: dict[str, Any] = {"shape": "gpt2", "num_layers": 6, "step_s": 0.2, "plain_over_all": RATIO}
LAYOUT = {"task": "e2e", "computed_per_needed": 1.01, "tokens_per_plain": 0.9, "training": 0.8, "validation": 0.7}
FIRST_TRIAL = {"first_trial_s": 9.0, "server_s": 8.5, "command_cpu_s": 1.5}
EPOCH = {"method": "prefix", "num_trained": 1234, "seconds": [10.0, 20.0, 30.0]}
HEAD = {"stage": "training", "seconds": [1.0, 2.0, 3.0]}
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
    "row_layouts": {
        "measurements": [{**LAYOUT, "layout": "packing"}, {**LAYOUT, "layout": "shared sources", "validation": 0.5}]
    },
    "peft_trainer": {
        "measurements": [
            {**EPOCH, "contender": "ours", "over_defaults": RATIO, "over_best": RATIO},
            {**EPOCH, "contender": "ours, shared sources", "over_defaults": RATIO, "over_best": LARGE_RATIO},
        ],
        "num_inputs": 20,
        "num_pairs": 172,
        "batch_size": 10,
        "shape": "gpt2",
        "dtype": "bfloat16",
    },
    "head_memory": {
        "measurements": [
            {**HEAD, "way": "in chunks", "peak_bytes": 1_500_000_000, "over_whole": RATIO},
            {**HEAD, "way": "all at once", "peak_bytes": 8_000_000_000, "over_whole": RATIO},
        ],
        "setting": {"shape": "gemma_270m", "dtype": "bfloat16", "batch_size": 8},
        "validation_rows": 64,
        "chunk": 128,
    },
    "compiled_layers": {
        "plain_s": 0.8,
        "compiled_s": 0.7,
        "first_s": 20.0,
        "speed": RATIO,
        "training_steps": 400,
        "training_speed": 1.07,
    },
    "packed_sweep": {
        "measured": {"packed": [[50.0, 1_000_000_000]], "one after another": [[100.0, 900_000_000]]},
        "time_ratio": 0.5,
        "memory_ratio": 1.111,
        "trials": 8,
        "steps": 20,
        "batch_size": 4,
        "layers": 12,
        "width": 768,
    },
    "rung_ranking": {
        "agreement": {
            "25": {
                "kendall": INTERVAL,
                "spearman": INTERVAL,
                "top_1": {"value": 1.0, "low": 0.7, "high": 0.7},
                "regret": INTERVAL,
            }
        },
        "losses": {"0": {}, "1": {}, "2": {}},
    },
    "decode_test_split": {
        "seconds": {"rows that ended leave": [1.0], "rows wait for the longest": [2.0]},
        "ratio": RATIO,
        "num_inputs": 630,
        "batch_size": 64,
        "backbone": "tiny_gpt2",
        "steps": 200,
        "dtype": "torch.float32",
        "num_different": 3,
    },
    "cost_scale": {
        "axes": {
            "batch": [{"value": value, "step_s": value, "line_s": value} for value in (1, 2, 4)],
            "trials": [{"value": 1, "step_s": 2.0, "line_s": 1.0}, {"value": 2, "step_s": 2.0, "line_s": 2.0}],
        },
        "bends": {"batch": "Batches have a reason.", "trials": "Trials have a reason."},
        "base": {"dtype": "float32"},
    },
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
    plotted = {part.module for part in PARTS if part.section(REPORTS[part.module]).plot is not None}
    assert set(plots) == {f"{name}.svg" for name in plotted} and "cost_scale" in plotted
    assert page.count("A CPU, 2 cores, Python 3.11.1, torch 2.13.0, transformers 5.23.0") == len(PARTS)
    for row in (
        "| gpt2 | ours | 1,234 | 3 | 250.0 |  |  | 0.50 (0.40-0.60) |",
        "| ours | 0.001 | 12 | 4.0000 | 1.2500 |",
        "| gpt2 | upper half (6) | 200.0 | 100.0 | 0.50 (0.40-0.60) | 0.50 (0.40-0.60) | 0.7 |",
        "| e2e | packing | 1.010 | 0.900 | 0.800 | 0.700 |",
        "| bare backbone | 2.00 | 3.00 | 1.000 |",
        "| mixed | base | 0.970 | 0.900 | 1.000 | >= 0.95 |",
        "| prefix | ours | 1,234 | 20.00 | 0.50 (0.40-0.60) | 0.50 (0.40-0.60) |",
        "| training | in chunks | 1,500 | 2.00 | 0.50 (0.40-0.60) |",
        "| compiled | 700.0 | 20.0 | 0.50 (0.40-0.60) | 1.070 |",
        "| packed | 50.0 | 1,000 |",
        "| 25 | 0.900 (0.800 to 1.000) | 0.900 (0.800 to 1.000) | same (0.70) | 0.900 (0.800 to 1.000) |",
        "| rows that ended leave | 1.00 | 0.50 (0.40-0.60) |",
        "| trials | 1 | 2000.0 | 1000.0 | 2.00 |",
        "| a study | 20.0 | 0.200 |",
        "| ptl-prefix train | 10.50 | 1.050 |",
    ):
        assert row in page


@pytest.mark.parametrize(
    "row",
    [
        "| prefix, shared sources, over PEFT with the Trainer's defaults | 0.500 | <= 0.3 | no |",
        "| prefix, shared sources, over PEFT with the Trainer's best settings | 1.500 | <= 0.45 | no |",
        "| a step with the upper half, gpt2 shape, cached over plain | 0.500 | <= 0.7 | yes |",
        "| positions computed over needed, packed, e2e | 1.010 | <= 1.03 | yes |",
        "| validation of E2E with shared sources over rows of one pair | 0.500 | <= 0.6 | yes |",
        "| peak memory, training | 1.500 GB | <= 2 GB | yes |",
        "| time over all at once, training | 0.500 | <= 1.02 | yes |",
        "| memory of a pack over that of one trial | 1.111 | <= 1.2 | yes |",
        "| time in a pack over one trial after another | 0.500 | <= 1 | yes |",
        "| ptl-prefix train over a script by hand | 1.050 | <= 1.1 | yes |",
        "| ptl-prefix --help | 0.200 CPU s | <= 0.25 CPU s | yes |",
        "| the first trial of a study starts after | 9.000 s | <= 2 s | no |",
        "| rows that ended leave, over waiting for the longest | 0.500 | <= 0.75 | yes |",
    ],
)
def test_a_number_stands_beside_its_goal(tmp_path: Path, row: str) -> None:
    for part in PARTS:
        store(tmp_path, part)

    assert row in write_page(tmp_path).read_text(encoding="utf-8")


def test_a_goal_can_be_the_least_number() -> None:
    assert Goal("speed", 1.2, 1.1, at_least=True).row == ["speed", "1.200", ">= 1.1", "yes"]
    assert not Goal("speed", 1.0, 1.1, at_least=True).is_met


def test_a_bend_has_its_reason(tmp_path: Path) -> None:
    (scale,) = (part for part in PARTS if part.module == "cost_scale")
    store(tmp_path, scale)

    page = write_page(tmp_path).read_text(encoding="utf-8")

    assert "- trials: Trials have a reason." in page
    assert "Batches have a reason." not in page


@pytest.mark.parametrize(("ratio", "is_bent"), [(0.75, True), (0.85, False), (1.2, False), (1.3, True)])
def test_a_number_far_below_the_line_is_a_bend_as_one_far_above_it(ratio: float, is_bent: bool) -> None:
    axes = {"batch": [{"value": 1, "step_s": ratio, "line_s": 1.0}]}

    section = run_sections.cost_scale({**REPORTS["cost_scale"], "axes": axes})

    assert ("- batch: Batches have a reason." in section.remarks) == is_bent


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


@pytest.mark.parametrize(("quick", "minutes"), [(False, 60), (True, 5)])
def test_all_parts_are_estimated_to_end_in_time(quick: bool, minutes: float) -> None:
    runs = [run for part in PARTS if (run := part.run(quick=quick)) is not None]

    assert 0.8 * minutes <= sum(run.minutes for run in runs) <= 0.95 * minutes
    assert {part.module for part in PARTS} <= {path.stem for path in HERE.glob("*.py")}


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Part:
    """A benchmark that does what its first argument says."""
    package = tmp_path / "code" / "benchmarks"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    reports = {module: {**REPORTS[module], **environment()} for module in ("sweep_start", "cold_start")}
    for module, report in reports.items():
        (package / f"{module}.py").write_text(
            textwrap.dedent(
                f"""
                import json, sys, time
                how, _, path = sys.argv[1:]
                if how == "slow":
                    time.sleep(60)
                if how == "wrong":
                    sys.exit(3)
                open(path, "w").write({json.dumps(report)!r} if how == "well" else '{{"environment": 1}}')
                """
            )
        )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.chdir(package.parent)
    return doing(part_of("sweep_start"), "well")


def part_of(module: str) -> Part:
    (found,) = (part for part in PARTS if part.module == module)
    return found


def doing(part: Part, how: str, minutes: float = 1.0) -> Part:
    return replace(part, whole=Run(how, minutes))


def test_a_result_is_stored_with_its_command(made_up: Part, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.run_all([made_up], tmp_path, quick=False) == []

    result = read_result(tmp_path, made_up)
    assert result is not None
    assert result.command == "python -m benchmarks.sweep_start well"
    assert result.report["ratio"] == 0.2
    out = capsys.readouterr().out
    assert "Starting the trials of a study, about 1 minutes, at most 2.0" in out
    assert "the first trial of a study starts after: 9.000 s, wanted <= 2 s: not met" in out


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("slow", "must end within 1 s"),
        ("wrong", "but exited with 3"),
        ("a report without what the page shows", "sweep_start: KeyError"),
    ],
)
def test_a_part_that_fails_leaves_its_earlier_result_and_the_others(
    made_up: Part, tmp_path: Path, how: str, told: str
) -> None:
    store(tmp_path, made_up)
    before = result_path(tmp_path, made_up).read_bytes()
    words, minutes = f"'{how}'", 1 / 120 if how == "slow" else 1.0
    other = doing(part_of("cold_start"), "well")

    (problem,) = runner.run_all([doing(made_up, words, minutes), other], tmp_path, quick=False)

    assert told in problem
    assert result_path(tmp_path, made_up).read_bytes() == before
    assert read_result(tmp_path, other) is not None


def run_main(monkeypatch: pytest.MonkeyPatch, parts: Sequence[Part], words: Sequence[str], folder: Path) -> int:
    monkeypatch.setattr(runner, "PARTS", tuple(parts))
    return runner.main([*words, "--folder", str(folder)])


def test_a_run_is_resumed_with_the_parts_that_are_missing(
    made_up: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other, folder = part_of("cold_start"), tmp_path / "page"
    failing, well = doing(other, "wrong"), doing(other, "well")

    assert run_main(monkeypatch, [made_up, failing], [], folder) == 1
    first = result_path(folder, made_up).read_bytes()
    result_path(folder, made_up).unlink()
    assert "the same command runs them again:\n  cold_start: RuntimeError" in capsys.readouterr().err

    assert run_main(monkeypatch, [made_up, well], [], folder) == 0
    assert "of which cold_start are missing" in capsys.readouterr().out
    assert read_result(folder, well) is not None
    assert not result_path(folder, made_up).exists(), "it had ended well, and was not run again"

    # Nothing is missing now: the next call runs everything.
    assert run_main(monkeypatch, [made_up, well], [], folder) == 0
    assert json.loads(result_path(folder, made_up).read_bytes())["report"] == json.loads(first)["report"]


def test_all_parts_are_run_again_if_that_is_wanted(
    made_up: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, failing = tmp_path / "page", doing(part_of("cold_start"), "wrong")
    run_main(monkeypatch, [made_up, failing], [], folder)
    result_path(folder, made_up).unlink()

    run_main(monkeypatch, [made_up, failing], ["--fresh"], folder)

    assert result_path(folder, made_up).exists()


def test_a_part_does_not_begin_if_its_time_is_not_left(made_up: Part, tmp_path: Path) -> None:
    (problem,) = runner.run_all([made_up], tmp_path, quick=False, minutes=0.5)

    assert problem == "sweep_start: not begun, as about 1 of 0.5 minutes are not left"
    assert not result_path(tmp_path, made_up).exists()


def test_parts_without_data_or_without_a_quick_run_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PTL_PREFIX_DATA", raising=False)

    assert runner.run_all([part_of("row_layouts"), part_of("sweep_start")], tmp_path, quick=True) == []

    assert "row_layouts: skipped, as it needs real data" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
