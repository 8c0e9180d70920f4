"""The memory of a pack's process."""

import platform
import subprocess
import sys

import pytest

_ALLOCATE = """
import time
import psutil
import torch
from ptl_prefix.commands.sweep.pack_process import give_freed_memory_back

give_freed_memory_back(every_s=0.05)
torch.ones(2**21)  # freed: from now on, glibc keeps what has this size
before = psutil.Process().memory_info().rss
held = [torch.ones(2**21) for _ in range(20)]
del held[:-1]
deadline = time.monotonic() + 20
while (more := psutil.Process().memory_info().rss - before) > 4 * 2**23 and time.monotonic() < deadline:
    time.sleep(0.05)
print(more)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", _ALLOCATE], capture_output=True, text=True, check=True)

    assert int(done.stdout) < 4 * 2**23, "of 20 tensors of 8 MiB, one is in use"
