"""`ptl-prefix` without its imports: a process that has imported everything forks itself for each command.

In: the variables of that process. Out: a program that stands for `ptl-prefix`. The process ends with this one.
"""

import atexit
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.forked_commands import ASKER

# A process that forks must have one thread: a fork inherits the locks of the others, which nobody releases.
_ONE_THREAD = {
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class CommandServer:
    """A process that runs the commands of a program in forks of itself.

    Args:
        environment: Its variables while it imports; a command has those of whoever calls the program.
        flags: Flags of its interpreter, which its commands inherit.
    """

    def __init__(self, environment: Mapping[str, str], flags: Sequence[str] = ()) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ptl_prefix_commands_"))
        address = self._folder / "socket"
        self.program = self._folder / "bin/ptl-prefix"
        self.program.parent.mkdir()
        self.program.write_text(ASKER.format(python=sys.executable, address=str(address)), encoding="utf-8")
        self.program.chmod(0o755)
        server = Path(__file__).with_name("forked_commands.py")
        self._process = subprocess.Popen(
            [sys.executable, *flags, str(server), str(address)],
            env={**environment, **_ONE_THREAD},
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
