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
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.table import Table
from transformers import GPT2Config, GPT2LMHeadModel

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.backbones.source import EMBEDDED
from ptl_prefix.commands.sweep.trial_server import SERVER_MODULE
from ptl_prefix.sweeping.trial_processes import TRIAL_LOG

_STEPS = 20
_POLL_S = 0.005


@contextmanager
def small_backbone() -> Iterator[Path]:
    """A random GPT-2 with two narrow layers and the embedded tokenizer, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="ptl-prefix-bench-") as scratch:
        folder = Path(scratch) / "small"
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((EMBEDDED / "tiny_gpt2" / name).read_bytes())
        vocabulary = len(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=vocabulary + 64, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=0
        )
        GPT2LMHeadModel(config).save_pretrained(folder)
        yield Path(scratch)


def common_settings(backbone: Path) -> list[str]:
    """The overrides of all trainings on both sides."""
    return [
        "backbone=local",
        f"backbone.path={backbone / 'small'}",
        "backbone.name=small",
        "backbone.dtype=float32",
        "backbone.device=cpu",
        "task.num_train=64",
        "task.num_validation=8",
        "task.num_test=4",
        "data.batch_size=4",
        "method.reparam_hidden_size=16",
        "generation.max_new_tokens=4",
        "evaluation.num_examples=2",
        f"trainer.max_steps={_STEPS}",
        f"trainer.val_check_interval={_STEPS}",
    ]


def time_study(settings: Sequence[str], trials: int, workers: int, cwd: Path) -> float:
    """Seconds of a study with this many trials."""
    words = ["-m", *settings, f"seed=range(0,{trials})", f"hydra.sweeper.n_jobs={workers}", "hydra.sweep.dir=study"]
    start = time.monotonic()
    command = [sys.executable, "-m", "ptl_prefix", "train", *words]
    _wait(subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    return time.monotonic() - start


def time_separate_commands(settings: Sequence[str], trials: int, workers: int, cwd: Path) -> float:
    """Seconds of this many commands, `workers` at once."""
    start = time.monotonic()
    running: list[subprocess.Popen[bytes]] = []
    for seed in range(trials):
        if len(running) == workers:
            _wait(running.pop(0))
        words = [*settings, f"seed={seed}", f"hydra.run.dir=fresh/{seed}"]
        command = [sys.executable, "-m", "ptl_prefix", "train", *words]
        running.append(subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    for process in running:
        _wait(process)
    return time.monotonic() - start


def measure_first_trial(settings: Sequence[str], cwd: Path) -> dict[str, float]:
    """Seconds until the first trial of a study starts, those of the imports of a trial server alone, and CPU seconds.

    The study's own process counts alone in the CPU seconds: neither the trial server nor the trial.
    """
    started = cwd / "first" / "0" / TRIAL_LOG
    words = ["-m", *settings, "seed=0,1", "hydra.sweep.dir=first", "hydra.sweeper.reuse=false"]
    began = time.monotonic()
    server = [sys.executable, "-m", SERVER_MODULE, "--warm"]
    subprocess.run(server, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    server_s, began = time.monotonic() - began, time.monotonic()
    command = [sys.executable, "-m", "ptl_prefix", "train", *words]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not started.exists() and process.poll() is None:
        time.sleep(_POLL_S)
    first_trial_s = time.monotonic() - began
    cpu = psutil.Process(process.pid).cpu_times() if process.poll() is None else None
    _wait(process)
    if cpu is None:
        raise RuntimeError("The study must still run when its first trial starts, but had ended.")
    return {"first_trial_s": first_trial_s, "server_s": server_s, "command_cpu_s": cpu.user + cpu.system}


def _wait(process: "subprocess.Popen[bytes]") -> None:
    _, error = process.communicate()
    if process.returncode:
        raise RuntimeError(
            f"Every training must exit with code 0, but one exited with {process.returncode}: {error.decode()}"
        )


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Measure both sides, print a table and write a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/sweep_start.json"))
    options = parser.parse_args(words)
    with small_backbone() as folder:
        settings = common_settings(folder)
        first = measure_first_trial(settings, folder)
        seconds = {
            "a study": time_study(settings, options.trials, options.workers, folder),
            "a process each": time_separate_commands(settings, options.trials, options.workers, folder),
        }
    ratio = seconds["a study"] / seconds["a process each"]
    table = Table(
        title=f"{options.trials} trainings of {_STEPS} steps, {options.workers} at a time", title_justify="left"
    )
    for heading in ("", "seconds", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("a study", f"{seconds['a study']:.1f}", f"{ratio:.3f}")
    table.add_row("a process each", f"{seconds['a process each']:.1f}", "1")
    console = Console()
    console.print(table)
    console.print(
        f"first trial: {first['first_trial_s']:.2f} s after the command; a trial server alone imports for "
        f"{first['server_s']:.2f} s; the command itself used {first['command_cpu_s']:.2f} CPU seconds",
        highlight=False,
    )
    result = {**seconds, "ratio": ratio, **first}
    about = {"trials": options.trials, "workers": options.workers, "steps": _STEPS, "environment": environment()}
    write_atomically(options.out, json.dumps({**about, **result}, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
