"""Bytecode of all modules in a folder of the benchmarks' own.

In: a folder. Out: the environment of a process. An installed package has its bytecode beside it after the first import;
not so where Python is told to write none, or where files were copied without their times. A process would then compile
all modules again, which takes longer than to run them.
"""

import os
from pathlib import Path


def with_bytecode(folder: Path) -> dict[str, str]:
    """This process's environment, in which Python keeps bytecode where it is told to, or else in a subfolder."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"PYTHONPYCACHEPREFIX": str((folder / "bytecode").resolve()), **kept}
