"""A launcher of Hydra's ecosystem runs a grid, each job in a process that it starts."""

from pathlib import Path

import pytest
from support.command_lines import CommandLine, run

from ptl_prefix.artifacts.run_record import read_record


@pytest.mark.slow
def test_submitit_runs_a_grid_of_one_device(command_line: CommandLine, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs hydra-submitit-launcher")
    words = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "hydra.sweep.dir=grid", "seed=0,1"]

    done = run("train", "-m", *command_line.small, *words, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    records = [read_record(tmp_path / "grid" / job / "record.json") for job in ("0", "1")]
    assert [(record.seed, record.status) for record in records] == [(0, "finished"), (1, "finished")]
    assert len(list((tmp_path / "grid/.submitit").glob("*/*_result.pkl"))) == 2
