"""The command line as a user meets it: in a process of its own, or, where that shows nothing more, in this one."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from click.testing import Result
from support.command_server import command_server
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.run_folder import RunFolder

Invoke = Callable[..., Result]


@dataclass(frozen=True)
class CommandLine:
    """Settings that make a run short."""

    tiny: TinyRuns

    @property
    def embedded(self) -> list[str]:
        """The shipped backbone, and little data."""
        return [
            "task.num_train=64",
            "task.num_validation=8",
            "task.num_test=6",
            "trainer.max_steps=6",
            "trainer.val_check_interval=4",
            "trainer.log_every_n_steps=1",
            "evaluation.retention=false",
            f"data.cache_dir={self.tiny.cache}",
        ]

    @property
    def small(self) -> list[str]:
        """A tiny backbone from a folder, which takes less than a second."""
        return [
            *self.embedded,
            "backbone=local",
            f"backbone.path={self.tiny.backbone_folder}",
            "backbone.name=tiny",
            "backbone.dtype=float32",
            "backbone.device=cpu",
            "data.batch_size=4",
            "method.prefix_length=3",
            "method.reparam_hidden_size=16",
            "generation.max_new_tokens=4",
        ]


def start(*words: str | Path, cwd: Path, start_new_session: bool = False) -> subprocess.Popen[str]:
    """Start `ptl-prefix`; a warning is an error there, too."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "ptl_prefix", *map(str, words)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `ptl-prefix` to its end, in a process that need not import anything; a warning is an error there, too."""
    command = [forked_command(), *map(str, words)]
    environment = {**os.environ, "WARNINGS_ARE_ERRORS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)


def forking_python() -> str:
    """The path of an interpreter in which modules of this package need not import anything."""
    return str(command_server().python)


def forked_command() -> str:
    """The path of a `ptl-prefix` that need not import anything."""
    return str(command_server().program)


@dataclass(frozen=True)
class Finished:
    """A run that a process of its own made."""

    folder: RunFolder
    process: subprocess.CompletedProcess[str]
