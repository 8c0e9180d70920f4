"""A study is begun for Slurm, and a worker starts the ranks of its trial by a stand-in for srun."""

import sys
from pathlib import Path

import pytest
from support.command_lines import CommandLine, run

from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.sweep.study_folder import open_study

# Starts two ranks of this machine with the variables that srun sets.
SRUN = """#!{python}
import os, subprocess, sys
assert sys.argv[1] == "--cpus-per-task=1"
names = {{"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "1", "SLURM_STEP_NODELIST": "127.0.0.1"}}
names["SLURM_STEP_NUM_TASKS"] = "2"
ranks = [
    subprocess.Popen(sys.argv[2:], env={{**os.environ, **names, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}})
    for rank in range(2)
]
sys.exit(max(rank.wait() for rank in ranks))
"""


@pytest.mark.slow
def test_a_trial_has_the_ranks_that_a_launcher_starts(command_line: CommandLine, tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    srun.write_text(SRUN.format(python=sys.executable))
    srun.chmod(0o755)
    ranks = ["trainer=ddp_cpu", "trainer.devices=2", "evaluation.num_examples=2", "evaluation.compare_bare=false"]
    of_study = ["hydra.sweeper.study_name=ranks", "hydra.sweeper.executor=slurm", "hydra.sweeper.warm=false"]
    folder = tmp_path / "outputs/sweeps/ranks"

    begun = run("train", "-m", *command_line.small, *ranks, *of_study, "optimizer.lr=choice(1e-3)", cwd=tmp_path)

    assert begun.returncode == 0, begun.stderr
    assert "No worker starts here, as the study's executor is slurm." in begun.stderr
    assert f"ptl-prefix sweep export {folder.relative_to(tmp_path)} slurm" in begun.stderr
    assert not list(folder.glob("*/record.json")), "no trial has begun"

    worked = run("sweep", "worker", folder, f"launcher={srun} --cpus-per-task=1", cwd=tmp_path)

    assert worked.returncode == 0, worked.stderr
    (trial,) = open_study(folder).scheduler().trials("")
    record = read_record(folder / "0/record.json")
    assert (trial.state, record.status, record.cost.steps) == ("finished", "finished", 6)
    assert record.metrics["val/loss"] == trial.value
    assert "ranks: 2; each sends" in (folder / "0/log.txt").read_text()
