"""`ptl-prefix serve` as a process of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

COMMAND = [sys.executable, "-m", "ptl_prefix"]


@contextmanager
def serving(*words: str, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", str, list[str]]]:
    """The process of a server, its address, and what it printed until it served."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "port=0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    printed: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            printed.append(line)
            if line.startswith("key:"):
                break
        address = re.search(r"http://[0-9.:]+", "".join(printed))
        assert address is not None, printed
        yield process, address[0], printed
    finally:
        process.kill()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
