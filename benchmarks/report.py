"""The report of a benchmark: a JSON file with the measured numbers, the machine and the libraries.

In: values. Out: a file, from which `page.py` writes its section.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import environment


def write_report(path: Path, values: Mapping[str, Any]) -> None:
    """Write a report with the description of the machine; its folder is created if it is missing."""
    write_atomically(path, json.dumps({**values, "environment": environment()}, indent=1, default=str) + "\n")
    print(f"written to {path}", flush=True)
