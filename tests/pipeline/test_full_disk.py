"""A file system that really is full, has no inodes left, or is read-only."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.command_lines import CommandLine, Invoke, run, start
from support.same_runs import assert_same_run

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record

pytestmark = pytest.mark.slow

Mount = Callable[[str], Path]

WIDE = ["method.reparam_hidden_size=512", "training.keep_last=2", "hydra.run.dir=run"]
"""A checkpoint of a megabyte or more, beside which a record and a log are small."""
NUM_LEFT = 300_000
"""Bytes that are left on the disk: enough for the record and the log, not for a checkpoint."""


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small file system in memory; it is unmounted afterwards."""
    disk = tmp_path / "disk"

    def mount(options: str) -> Path:
        disk.mkdir()
        if os.geteuid() != 0:
            pytest.skip("mounting a file system needs root")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        return disk

    try:
        yield mount
    finally:
        if os.path.ismount(disk):
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture(scope="module")
def whole(command_line: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same run on a disk with space."""
    work = tmp_path_factory.mktemp("whole")
    done = run("train", *command_line.small, *WIDE, cwd=work)
    assert done.returncode == 0, done.stderr
    return RunFolder(work / "run")


def free_bytes(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def check_failed_and_resumable(
    done: subprocess.CompletedProcess[str], folder: RunFolder, fact: str, make_space: Callable[[], None], invoke: Invoke
) -> None:
    record = read_record(folder.record)
    sentences = [line for line in done.stderr.splitlines() if "must be written" in line]

    assert done.returncode == 1
    assert len(sentences) == 1 and fact in sentences[0], done.stderr
    assert str(folder.path) in sentences[0] and "Traceback" not in done.stderr
    assert record.status == "failed" and record.error is not None and fact in record.error
    assert not folder.reserve.exists() and not list(folder.path.rglob("*.tmp-*"))

    make_space()
    resumed = invoke("train", f"resume={folder.path}")
    assert resumed.exit_code == 0, resumed.output


def test_a_full_disk_ends_a_run_in_one_sentence_and_it_resumes_to_the_same_numbers(
    command_line: CommandLine, whole: RunFolder, mounted: Mount, invoke: Invoke
) -> None:
    disk = mounted("size=64m")
    assert whole.last.stat().st_size > 2 * NUM_LEFT
    ballast = disk / "ballast"
    ballast.write_bytes(b"0" * (free_bytes(disk) - NUM_LEFT))

    done = run("train", *command_line.small, *WIDE, cwd=disk)

    folder = RunFolder(disk / "run")
    check_failed_and_resumable(done, folder, "but the disk is full, or has no inodes left", ballast.unlink, invoke)
    needed = re.search(r"checkpoints/best\.ckpt must be written, which needs ([\d,]+) bytes", done.stderr)
    assert needed is not None and int(needed.group(1).replace(",", "")) > NUM_LEFT
    assert_same_run(folder, whole)


def test_a_disk_without_inodes_ends_a_run_in_one_sentence_and_it_resumes_to_the_same_numbers(
    command_line: CommandLine, whole: RunFolder, mounted: Mount, invoke: Invoke
) -> None:
    disk = mounted("size=64m,nr_inodes=40")
    folder = RunFolder(disk / "run")
    process = start("train", *command_line.small, *WIDE, cwd=disk)
    while process.poll() is None and not folder.events.exists():
        time.sleep(0.01)
    fillers = []
    while os.statvfs(disk).f_ffree:
        fillers.append(disk / f"filler-{len(fillers)}")
        fillers[-1].touch()
    out, err = process.communicate(timeout=240)

    def free_inodes() -> None:
        for filler in fillers:
            filler.unlink()

    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    check_failed_and_resumable(done, folder, "but the disk is full, or has no inodes left", free_inodes, invoke)
    assert_same_run(folder, whole)


def test_a_read_only_disk_is_refused_in_one_sentence_before_anything_is_trained(
    command_line: CommandLine, mounted: Mount, tmp_path: Path
) -> None:
    disk = mounted("size=1m,ro")

    done = run("train", *command_line.small, f"hydra.run.dir={disk}/run", cwd=tmp_path)

    assert done.returncode == 1, done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if "must be written" in line]
    assert f"{disk}/run" in sentence and "but the disk is read-only" in sentence
    assert "Traceback" not in done.stderr and "step" not in done.stderr
