"""Runs the benchmarks one after another, each within a time limit, and writes the page of their results.

    python -m benchmarks                # `make bench`: at most an hour; writes benchmarks/README.md
    python -m benchmarks --quick        # `make bench-quick`: at most five minutes; writes to outputs/benchmarks/quick/
    python -m benchmarks --only step_time decode_time
    python -m benchmarks --fresh        # all parts, though an earlier call has not ended
    python -m benchmarks --page-only    # only the page, from the stored results

In: `parts.toml`. Out: a result for each part that ended well, and the page of all stored results.

Each result is stored as soon as its part has ended. A part that fails or takes more than twice its estimated time
leaves its earlier result as it was, the others are run, and the exit code is 1. A part whose estimated time is more
than what is left of the hour does not begin. The next call resumes: it runs the parts that are missing, until none is
left; the call after that begins anew. Parts on real data are skipped if PTL_PREFIX_DATA is not set.
"""

import argparse
import contextlib
import datetime
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.bytecode import with_bytecode
from benchmarks.goals import Goal
from benchmarks.page import RESULTS, Result, result_path, write_page
from benchmarks.parts import PARTS, Part, Run, names
from ptl_prefix.artifacts.atomic import write_atomically

HERE = Path(__file__).parent
QUICK = Path("outputs/benchmarks/quick")
_DATA = "PTL_PREFIX_DATA"
_MINUTES, _QUICK_MINUTES = 60.0, 5.0


class Unfinished:
    """The parts of a run that are still missing, in a file until none is.

    Args:
        folder: Folder of results and page.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / RESULTS / "unfinished.json"

    @property
    def modules(self) -> list[str]:
        """Their modules; none if no run is unfinished."""
        return list(json.loads(self._path.read_text(encoding="utf-8"))) if self._path.is_file() else []

    def begin(self, parts: Sequence[Part]) -> None:
        """All parts of a new run are missing."""
        self._write([part.module for part in parts])

    def remove(self, part: Part) -> None:
        """A part has ended well, or cannot be run here."""
        if part.module in (missing := self.modules):
            self._write([module for module in missing if module != part.module])

    def _write(self, modules: Sequence[str]) -> None:
        if modules:
            write_atomically(self._path, json.dumps(modules) + "\n")
        else:
            self._path.unlink(missing_ok=True)


def run_part(part: Part, run: Run, *, limit_s: float) -> Result:
    """Run a benchmark in a process of its own.

    Raises:
        RuntimeError: It failed, or took longer than its limit.
    """
    words = shlex.split(run.words)
    given = [word.replace("{data}", os.environ.get(_DATA, "")) for word in words]
    shown = run.words.replace("{data}", f"${_DATA}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        began = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.{part.module}", *given, "--json", str(path)]
        # A session of its own: the processes that a benchmark starts end with it.
        process = subprocess.Popen(command, start_new_session=True, env=with_bytecode(QUICK.parent))
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


def run_all(parts: Sequence[Part], folder: Path, *, quick: bool, minutes: float = _MINUTES) -> list[str]:
    """Run parts, and store the results of those that end well.

    Args:
        parts: The parts, in their order.
        folder: Folder of results and page.
        quick: Whether the quick runs are taken; parts without one are left out.
        minutes: Time of all together.

    Returns:
        A sentence about each part that has no new result.
    """
    problems: list[str] = []
    unfinished, ends = Unfinished(folder), time.monotonic() + 60 * minutes
    for part in parts:
        run = part.run(quick=quick)
        if run is None or (run.needs_data and not os.environ.get(_DATA)):
            if run is not None:
                print(f"{part.module}: skipped, as it needs real data: set {_DATA} to its folder", flush=True)
            unfinished.remove(part)
            continue
        left_s = ends - time.monotonic()
        if left_s < 60 * run.minutes:
            problems.append(f"{part.module}: not begun, as about {run.minutes:g} of {minutes:g} minutes are not left")
            continue
        limit_s = min(run.limit_s, left_s)
        print(f"{part.module}: {part.title}, about {run.minutes:g} minutes, at most {limit_s / 60:.1f}", flush=True)
        try:
            result = run_part(part, run, limit_s=limit_s)
            goals = part.section(result.report).goals
        except Exception as error:  # a report without what the page shows, too: the other parts are run
            problems.append(f"{part.module}: {type(error).__name__}: {error}")
            print(problems[-1], flush=True)
            continue
        write_atomically(result_path(folder, part), json.dumps(asdict(result), indent=1) + "\n")
        unfinished.remove(part)
        _tell(part, result, goals)
    return problems


def _tell(part: Part, result: Result, goals: Sequence[Goal]) -> None:
    """Print what has come of a part."""
    print(f"{part.module}: {result.seconds:.0f} s", flush=True)
    for goal in goals:
        what, measured, wanted, met = goal.row
        print(f"  {what}: {measured}, wanted {wanted}: {'met' if met == 'yes' else 'not met'}", flush=True)


def chosen_parts(only: Sequence[str] | None, folder: Path, *, quick: bool, fresh: bool) -> list[Part]:
    """The named parts; else those that an earlier call has left; else all."""
    if only:
        return [part for part in PARTS if part.module in only]
    unfinished = Unfinished(folder)
    all_parts = [part for part in PARTS if part.run(quick=quick) is not None]
    missing = [part for part in all_parts if part.module in unfinished.modules]
    if missing and not fresh:
        print(f"resuming an unfinished run, of which {names(missing)} are missing; --fresh runs all parts", flush=True)
        return missing
    unfinished.begin(all_parts)
    return all_parts


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller shapes and fewer parts, within five minutes")
    parser.add_argument("--only", nargs="+", choices=[part.module for part in PARTS], help="parts to run")
    parser.add_argument("--fresh", action="store_true", help="run all parts, though an earlier call has not ended")
    parser.add_argument("--page-only", action="store_true", help="run nothing; write the page from stored results")
    about = f"time of all parts together; default: {_MINUTES:g}, or {_QUICK_MINUTES:g} with --quick"
    parser.add_argument("--minutes", type=float, help=about)
    parser.add_argument("--folder", type=Path, help=f"folder of results and page; default: benchmarks, or {QUICK}")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the chosen parts and write the page."""
    arguments = parse(words)
    folder: Path = arguments.folder or (QUICK if arguments.quick else HERE)
    problems: list[str] = []
    try:
        if not arguments.page_only:
            parts = chosen_parts(arguments.only, folder, quick=arguments.quick, fresh=arguments.fresh)
            runs = [run for part in parts if (run := part.run(quick=arguments.quick)) is not None]
            print(f"{len(runs)} parts, about {sum(run.minutes for run in runs):.0f} minutes", flush=True)
            minutes = arguments.minutes or (_QUICK_MINUTES if arguments.quick else _MINUTES)
            problems = run_all(parts, folder, quick=arguments.quick, minutes=minutes)
    finally:
        print(f"page: {write_page(folder)}")
    if problems:
        print("These have no new result; the same command runs them again:", *problems, sep="\n  ", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
