"""Runs the benchmarks one after another, each within a time limit, and writes the page of their results.

    python -m benchmarks                # `make bench`: at most an hour; writes benchmarks/README.md
    python -m benchmarks --quick        # `make bench-quick`: at most five minutes; writes to outputs/benchmarks/quick/
    python -m benchmarks --only step_time decode_time
    python -m benchmarks --page-only    # only the page, from the stored results

In: `parts.py`. Out: a result for each part that ended in time, and the page of all stored results. A part that fails or
takes too long leaves its earlier result as it was, and the exit code is 1.
"""

import argparse
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.page import Result, result_path, write_page
from benchmarks.parts import PARTS, Part
from ptl_prefix.artifacts.atomic import write_atomically

HERE = Path(__file__).parent
QUICK = Path("outputs/benchmarks/quick")
_DATA = "PTL_PREFIX_DATA"


def run_part(part: Part, words: Sequence[str], *, limit_s: float) -> Result:
    """Run a benchmark in a process of its own.

    Raises:
        RuntimeError: It failed, or took longer than its limit.
    """
    given = [word.replace("{data}", os.environ.get(_DATA, "")) for word in words]
    shown = " ".join(word.replace("{data}", f"${_DATA}") for word in words)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        began = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.{part.module}", *given, part.flag, str(path)]
        # A session of its own: the processes that a benchmark starts end with it.
        process = subprocess.Popen(command, start_new_session=True)
        try:
            code = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"it must end within {limit_s:.0f} s, but did not") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if code:
            raise RuntimeError(f"it must exit with code 0, but exited with {code}")
        seconds, report = time.monotonic() - began, json.loads(path.read_text(encoding="utf-8"))
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Result(f"python -m benchmarks.{part.module} {shown}".rstrip(), round(seconds, 1), date, report)


def run_all(parts: Sequence[Part], folder: Path, *, quick: bool) -> list[str]:
    """Run parts, and store the results of those that end well; the sentences about the others."""
    problems = []
    for part in parts:
        words, limit_s = (part.quick_words, part.quick_limit_s) if quick else (part.words, part.limit_s)
        if words is None:
            continue
        if part.needs_data(words) and not os.environ.get(_DATA):
            print(f"{part.module}: skipped, as it needs real data: set {_DATA} to its folder", flush=True)
            continue
        print(f"{part.module}: {part.title}, at most {limit_s} s", flush=True)
        try:
            result = run_part(part, words, limit_s=limit_s)
        except (RuntimeError, OSError, ValueError) as error:
            problems.append(f"{part.module}: {error}")
            print(problems[-1], flush=True)
        else:
            write_atomically(result_path(folder, part), json.dumps(asdict(result), indent=1) + "\n")
    return problems


def main(words: Sequence[str] | None = None) -> int:
    """Run the chosen parts and write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller shapes and fewer parts, within five minutes")
    parser.add_argument(
        "--only", nargs="+", choices=[part.module for part in PARTS], help="parts to run; all by default"
    )
    parser.add_argument("--page-only", action="store_true", help="run nothing; write the page from stored results")
    parser.add_argument("--folder", type=Path, help=f"folder of results and page; default: benchmarks, or {QUICK}")
    arguments = parser.parse_args(words)
    folder: Path = arguments.folder or (QUICK if arguments.quick else HERE)
    chosen = [part for part in PARTS if not arguments.only or part.module in arguments.only]
    problems = [] if arguments.page_only else run_all(chosen, folder, quick=arguments.quick)
    print(f"page: {write_page(folder)}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
