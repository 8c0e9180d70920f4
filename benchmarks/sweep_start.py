"""Compares the time of a study with the time of the same trainings as separate commands.

    python -m benchmarks.sweep_start                  # 24 trials of 20 steps, two at once on both sides
    python -m benchmarks.sweep_start --trials 6 --workers 1

In: a small random backbone, so that starting a training takes most of the time. Out: seconds of the whole study, from
the start of its command to its end; seconds of the same trainings by one `ptl-prefix train` each; and their ratio. Both
sides train the same runs with the same number at once, one side after the other, and share nothing.

It also says when the first trial of a study starts: seconds from the start of the command to the fork of the first
trial, which opens its log; the seconds that a trial server alone takes to import everything, of which that time cannot
be less; and the CPU seconds, of user and system, that the command's own process has used until then.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks import run_sections
from benchmarks.bytecode import with_bytecode
from benchmarks.local_backbone import TrainCommand, random_gpt2, short_training
from benchmarks.report import finish
from ptl_prefix.commands.sweep.trial_server import SERVER_MODULE
from ptl_prefix.sweeping.trial_processes import TRIAL_LOG

_STEPS = 20
_POLL_S = 0.005


def time_study(settings: Sequence[str], trials: int, workers: int, cwd: Path) -> float:
    """Seconds of a study with this many trials."""
    words = ["-m", *settings, f"seed=range(0,{trials})", f"hydra.sweeper.n_jobs={workers}", "hydra.sweep.dir=study"]
    start = time.monotonic()
    TrainCommand(words, cwd, with_bytecode(cwd)).wait()
    return time.monotonic() - start


def time_separate_commands(settings: Sequence[str], trials: int, workers: int, cwd: Path) -> float:
    """Seconds of this many commands, `workers` at once."""
    start = time.monotonic()
    running: list[TrainCommand] = []
    for seed in range(trials):
        if len(running) == workers:
            running.pop(0).wait()
        words = [*settings, f"seed={seed}", f"hydra.run.dir=fresh/{seed}"]
        running.append(TrainCommand(words, cwd, with_bytecode(cwd)))
    for command in running:
        command.wait()
    return time.monotonic() - start


def measure_first_trial(settings: Sequence[str], cwd: Path, study: str) -> dict[str, float]:
    """Seconds until the first trial of a study starts, those of the imports of a trial server alone, and CPU seconds.

    The study's own process counts alone in the CPU seconds: neither the trial server nor the trial.
    """
    started = cwd / study / "0" / TRIAL_LOG
    words = ["-m", *settings, "seed=0,1", f"hydra.sweep.dir={study}", "hydra.sweeper.reuse=false"]
    server, nothing = [sys.executable, "-m", SERVER_MODULE, "--warm"], subprocess.DEVNULL
    began = time.monotonic()
    subprocess.run(server, cwd=cwd, env=with_bytecode(cwd), stdin=nothing, stdout=nothing, check=True)
    server_s, began = time.monotonic() - began, time.monotonic()
    command = TrainCommand(words, cwd, with_bytecode(cwd))
    while not started.exists() and command.is_running:
        time.sleep(_POLL_S)
    first_trial_s = time.monotonic() - began
    cpu = psutil.Process(command.process.pid).cpu_times() if command.is_running else None
    command.wait()
    if cpu is None:
        raise RuntimeError("The study must still run when its first trial starts, but had ended.")
    return {"first_trial_s": first_trial_s, "server_s": server_s, "command_cpu_s": cpu.user + cpu.system}


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Measure both sides, print a table and write a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", "--json", dest="out", type=Path, default=Path("outputs/benchmarks/sweep_start.json"))
    options = parser.parse_args(words)
    with random_gpt2(width=32, layers=2, heads=4) as folder:
        settings = short_training(folder, num_train=64, num_validation=8, batch_size=4, steps=_STEPS)
        settings.append("method.reparam_hidden_size=16")
        # The first study compiles all modules to bytecode, and does not count.
        _, first = (measure_first_trial(settings, folder, study) for study in ("warmup", "first"))
        seconds = {
            "a study": time_study(settings, options.trials, options.workers, folder),
            "a process each": time_separate_commands(settings, options.trials, options.workers, folder),
        }
    ratio = seconds["a study"] / seconds["a process each"]
    result = {**seconds, "ratio": ratio, **first}
    about = {"trials": options.trials, "workers": options.workers, "steps": _STEPS}
    finish(options.out, {**about, **result}, run_sections.sweep_start)
    return result


if __name__ == "__main__":
    main()
