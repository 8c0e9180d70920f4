"""`ptl-prefix` without its imports: a process that has imported everything forks itself for each command.

In: nothing. Out: a program that stands for `ptl-prefix`. The process ends with this one.
"""

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from support.forked_commands import write_programs

_TESTS = Path(__file__).parents[1]
# A process that forks must have one thread: a fork inherits the locks of the others, which nobody releases.
_ONE_THREAD = {
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class CommandServer:
    """A process that runs the commands of a program in forks of itself.

    `program` stands for `ptl-prefix`, and `python` for the interpreter where it runs a module of the package. A
    command has the variables of whoever calls the program, and a warning is an error if `WARNINGS_ARE_ERRORS` is one.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ptl_prefix_commands_"))
        address = self._folder / "socket"
        programs = self._folder / "bin"
        programs.mkdir()
        write_programs(programs, address)
        self.program, self.python = programs / "ptl-prefix", programs / "python"
        server = Path(__file__).with_name("forked_commands.py")
        self._process = subprocess.Popen(
            [sys.executable, str(server), str(address), str(programs)],
            env=clean_environment(self._folder, []) | _ONE_THREAD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        atexit.register(self._close)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"listening\n", f"{server} did not start; standard error says why."

    def _close(self) -> None:
        self._process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)


command_server = functools.cache(CommandServer)
"""The one server of this process."""


def clean_environment(home: Path, paths: Sequence[str]) -> dict[str, str]:
    """Variables of somebody who has just installed the package, without a network.

    Args:
        home: The home folder.
        paths: Folders from which modules are imported.
    """
    hidden = ("WANDB_", "PTL_PREFIX_", "HF_", "PYTEST_", "SLURM_", "HYDRA_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    return {
        **kept,
        "HOME": str(home),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join([*paths, str(_TESTS / "no_network")]),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "COLUMNS": "80",
        "NO_COLOR": "1",
    }
