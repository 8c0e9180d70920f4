"""The resident memory of this process, as Linux counts it.

In: nothing. Out: bytes, now and at the peak since a moment. They include the libraries and what an allocator rounds up;
memory that was freed and given back is not counted.
"""

import gc
from pathlib import Path


class ResidentMemory:
    """The resident memory of this process, on Linux.

    Args:
        baseline: Bytes that `peak` is compared with; those of now.
    """

    def __init__(self) -> None:
        self.baseline = self._read("VmRSS")

    def reset(self) -> None:
        """Begin a phase: the peak is the memory of now."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def peak(self) -> int:
        """Peak bytes since `reset`."""
        return self._read("VmHWM")

    def _read(self, key: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
