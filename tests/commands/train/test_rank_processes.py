"""What each rank's process is started with."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.train import rank_processes
from ptl_prefix.commands.train.rank_processes import RankProcesses
from ptl_prefix.commands.train.resume_changes import ResumeChanges

TELL = "import os, sys; open(sys.argv[1] + os.environ['RANK'], 'w').write(os.environ['OMP_NUM_THREADS'])"


def _threads_of_two(tmp_path: Path) -> list[str]:
    ranks: Any = RankProcesses(RunFolder(tmp_path), 2, ResumeChanges().as_text())
    ranks._command = [sys.executable, "-c", TELL, str(tmp_path / "threads_of_")]
    ranks.run()
    return [(tmp_path / f"threads_of_{rank}").read_text() for rank in range(2)]


def test_ranks_share_the_cores_that_this_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(rank_processes, "num_cores", lambda: 7)
    # What the machine has besides is others'.
    monkeypatch.setattr(os, "cpu_count", lambda: 64)

    assert _threads_of_two(tmp_path) == ["3", "3"]


def test_threads_that_were_asked_for_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")

    assert _threads_of_two(tmp_path) == ["5", "5"]


@pytest.mark.parametrize(("code", "is_behind"), [(5, True), (0, False), (1, False)])
def test_a_mirror_that_is_behind_is_no_failure_of_rank_zero(tmp_path: Path, code: int, is_behind: bool) -> None:
    ranks: Any = RankProcesses(RunFolder(tmp_path), 2, ResumeChanges().as_text())
    ranks._command = [sys.executable, "-c", f"import os, sys; sys.exit({code} if os.environ['RANK'] == '0' else 0)"]

    ranks.run()

    assert ranks.mirror_is_behind == is_behind
    assert ranks.failure == ((0, 1) if code == 1 else None)
