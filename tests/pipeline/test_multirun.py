"""`train -m`: every combination of values is a run of its own."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from support.command_lines import CommandLine, Invoke

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.main import cli


@pytest.fixture(scope="module")
def jobs(command_line: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep over two seeds."""
    folder = tmp_path_factory.mktemp("multirun") / "both"
    result = CliRunner().invoke(cli, ["train", "-m", *command_line.small, "seed=3,4", f"hydra.sweep.dir={folder}"])
    assert result.exit_code == 0, result.output
    return folder


def test_every_job_of_a_sweep_is_a_run_in_a_folder_of_its_own(jobs: Path) -> None:
    records = [read_record(jobs / job / "record.json") for job in ("0", "1")]

    assert [record.seed for record in records] == [3, 4]
    assert [record.status for record in records] == ["finished", "finished"]
    assert records[0].run_id != records[1].run_id
    hashes = [read_bundle(jobs / job / "bundle").manifest.tensors_sha256 for job in ("0", "1")]
    assert hashes[0] != hashes[1]
    assert sorted(path.name for path in jobs.iterdir() if path.name.isdigit()) == ["0", "1"]


def test_a_job_is_the_run_that_its_settings_make_alone(jobs: Path, command_line: CommandLine, invoke: Invoke) -> None:
    invoke("train", *command_line.small, "seed=4", "hydra.run.dir=alone")

    assert read_record(jobs / "1/record.json").metrics == read_record("alone/record.json").metrics


def test_one_job_that_fails_does_not_stop_the_others(command_line: CommandLine, invoke: Invoke) -> None:
    result = invoke(
        "train", "-m", *command_line.small, "optimizer.warmup_steps=0", "optimizer.lr=1e30,1e-3", "hydra.sweep.dir=both"
    )

    assert result.exit_code == 1
    assert "1 of 2 failed: 0" in result.stderr
    assert read_record("both/0/record.json").status == "failed"
    assert read_record("both/1/record.json").status == "finished"
