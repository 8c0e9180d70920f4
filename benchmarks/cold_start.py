"""Compares the CPU time of a new command, up to its first step, with that of a script that does the same by hand.

    python -m benchmarks.cold_start                # 5 rounds
    python -m benchmarks.cold_start --rounds 1

In: two contenders (`benchmarks/first_step.py`), each a new process that imports everything. Out: for each the median
CPU seconds up to the end of its first optimizer step, their ratio, the libraries that only the command imports, and
the CPU seconds of `ptl-prefix --help`. CPU time, of user and system, hardly depends on what else the machine does, as
seconds on the clock do. Rounds take the contenders in turn, and a first round, which reads the disk and compiles all
modules to bytecode, does not count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import run_sections
from benchmarks.bytecode import with_bytecode
from benchmarks.report import finish

CONTENDERS = ("train", "script")
_ROOT = Path(__file__).parents[1]


def measure_first_step(contender: str, cwd: Path) -> dict[str, Any]:
    """CPU seconds up to the end of the first step, and the imported libraries."""
    command = [sys.executable, "-m", "benchmarks.first_step", contender]
    done = subprocess.run(command, cwd=cwd, env=_environment(cwd), capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        raise RuntimeError(f"A contender must reach its first step, but '{contender}' did not: {done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure_help(cwd: Path) -> float:
    """CPU seconds of `ptl-prefix --help`."""
    code = (
        "import sys, time\nfrom ptl_prefix.commands.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: print(time.process_time(), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=_environment(cwd), capture_output=True, text=True, check=True
    )
    return float(done.stderr.splitlines()[-1])


def _environment(cwd: Path) -> dict[str, str]:
    """One thread, so that idle threads which wait actively cost nothing, and a cache of this benchmark's own."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
    own = {"PYTHONPATH": path, "XDG_CACHE_HOME": str(cwd / "cache")}
    return {**with_bytecode(cwd), **threads, **own}


def summarize(measured: Mapping[str, Sequence[Mapping[str, Any]]], help_s: Sequence[float]) -> dict[str, Any]:
    """Medians, the ratio, and the libraries that only the command imports."""
    medians = {name: statistics.median(one["cpu_s"] for one in rounds) for name, rounds in measured.items()}
    only = sorted(set(measured["train"][0]["libraries"]) - set(measured["script"][0]["libraries"]))
    return {
        "cpu_s": medians,
        "ratio": medians["train"] / medians["script"],
        "help_cpu_s": statistics.median(help_s),
        "only_train_imports": only,
    }


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure in rounds, print a table and write a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1, help="number of rounds before the measured ones")
    parser.add_argument("--out", "--json", dest="out", type=Path, default=Path("outputs/benchmarks/cold_start.json"))
    options = parser.parse_args(words)
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    help_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="ptl-prefix-bench-") as scratch:
        for number in range(options.warmup + options.rounds):
            found = {name: measure_first_step(name, Path(scratch)) for name in CONTENDERS}
            of_help = measure_help(Path(scratch))
            if number >= options.warmup:
                help_s.append(of_help)
                for name, one in found.items():
                    measured[name].append(one)
    result = summarize(measured, help_s)
    finish(options.out, {"rounds": options.rounds, **result}, run_sections.cold_start)
    print(f"imported by the command alone: {', '.join(result['only_train_imports'])}")
    return result


if __name__ == "__main__":
    main()
