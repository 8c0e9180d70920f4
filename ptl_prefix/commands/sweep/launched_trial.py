"""A trial whose processes a launcher starts, such as Slurm's srun on all nodes of a job.

In: a run folder with a frozen config, and the launcher's command. Out: the launcher's exit code. SIGTERM is passed on,
so that the ranks save a checkpoint, and the launcher receives it when this process dies in another way.
"""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1


def run(folder: Path, launcher: Sequence[str]) -> int:
    """Run a trial to its end.

    Args:
        folder: Run folder with a checked config.
        launcher: Command that starts the command after it once for each rank.

    Returns:
        The launcher's exit code; it is negative if a signal killed the launcher.
    """
    libc = ctypes.CDLL(None)
    processes: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in processes:
            process.send_signal(number)

    def end_with_parent() -> None:
        if hasattr(libc, "prctl"):  # Linux, as every cluster
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    signal.signal(signal.SIGTERM, forward)
    command = [*launcher, sys.executable, "-m", "ptl_prefix", "train", f"resume={folder}"]
    try:
        processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=end_with_parent))
    except OSError as error:
        print(f"The launcher of the trials must be a program, but {launcher[0]!r} is not: {error}", file=sys.stderr)
        return 1
    for number in received:  # while it was started
        processes[0].send_signal(number)
    return processes[0].wait()
