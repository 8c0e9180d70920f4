"""Compares a study whose trials train in a pack with the same study one trial after another: time and memory.

    python -m benchmarks.packed_sweep                           # 8 trials, 3 rounds
    python -m benchmarks.packed_sweep --trials 3 --rounds 1 --steps 4 --width 32 --layers 2

In: a random GPT-2. Out: for either side the median seconds of the whole study, and the largest resident memory of a
process that trains; and their ratios. The rounds alternate between the sides, which train the same trials, share
nothing and have the same number of threads. The largest memory of the other side is that of one trial.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.table import Table
from transformers import GPT2Config, GPT2LMHeadModel

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.backbones.source import EMBEDDED

_POLL_S = 0.02
_SIDES = ("packed", "one after another")


@contextmanager
def random_backbone(width: int, layers: int) -> Iterator[Path]:
    """A random GPT-2 of a shape, with the embedded tokenizer, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="ptl-prefix-bench-") as scratch:
        folder = Path(scratch) / "random"
        folder.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((EMBEDDED / "tiny_gpt2" / name).read_bytes())
        vocabulary = len(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=vocabulary + 64,
            n_embd=width,
            n_layer=layers,
            n_head=max(1, width // 64),
            n_positions=256,
            bos_token_id=0,
            eos_token_id=0,
        )
        GPT2LMHeadModel(config).save_pretrained(folder)
        yield Path(scratch)


def settings_of(backbone: Path, steps: int, batch_size: int) -> list[str]:
    """The overrides of the trials on both sides."""
    return [
        "backbone=local",
        f"backbone.path={backbone / 'random'}",
        "backbone.name=random",
        "backbone.dtype=float32",
        "task.num_train=256",
        "task.num_validation=32",
        "task.num_test=4",
        f"data.batch_size={batch_size}",
        "method.reparam=none",
        "generation.max_new_tokens=4",
        "evaluation.num_examples=2",
        "evaluation.compare_bare=false",
        "hydra.sweeper.reuse=false",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={steps}",
        "method.prefix_length=5,10,20,40",
        "optimizer.lr=0.001,0.01,0.1,0.5",
    ]


def measure(settings: Sequence[str], trials: int, pack: int, cwd: Path) -> tuple[float, int]:
    """Run a study.

    Args:
        settings: Overrides.
        trials: Number of trials.
        pack: Trials in a pack; 1 trains one after another.
        cwd: A folder of its own.

    Returns:
        Seconds from the start of the command to its end, and the largest resident bytes of a process that trains.
    """
    cwd.mkdir(parents=True)
    sweep = [f"hydra.sweeper.n_trials={trials}", f"hydra.sweeper.pack={pack}", "hydra.sweep.dir=study"]
    command = [sys.executable, "-m", "ptl_prefix", "train", "-m", *settings, *sweep]
    began, peak = time.monotonic(), 0
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None:
        peak = max(peak, _training_bytes(process.pid))
        time.sleep(_POLL_S)
    seconds = time.monotonic() - began
    _, error = process.communicate()
    if process.returncode:
        raise RuntimeError(f"A study must exit with code 0, but exited with {process.returncode}: {error.decode()}")
    return seconds, peak


def _training_bytes(pid: int) -> int:
    """Resident bytes of the largest fork of the study's trial server."""
    with suppress(psutil.Error):
        forks = [fork for server in psutil.Process(pid).children() for fork in server.children()]
        return max((fork.memory_info().rss for fork in forks), default=0)
    return 0


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Measure both sides, print a table and write a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/packed_sweep.json"))
    options = parser.parse_args(words)
    found: dict[str, list[tuple[float, int]]] = {side: [] for side in _SIDES}
    with random_backbone(options.width, options.layers) as folder:
        settings = settings_of(folder, options.steps, options.batch_size)
        for number in range(options.rounds):
            for side in _SIDES if number % 2 == 0 else reversed(_SIDES):
                pack = options.trials if side == "packed" else 1
                found[side].append(
                    measure(settings, options.trials, pack, folder / side.replace(" ", "_") / str(number))
                )
    seconds = {side: statistics.median(one for one, _ in found[side]) for side in _SIDES}
    memory = {side: statistics.median(one for _, one in found[side]) for side in _SIDES}
    packed, other = _SIDES
    result = {"time_ratio": seconds[packed] / seconds[other], "memory_ratio": memory[packed] / memory[other]}
    table = Table(title=f"{options.trials} trials of {options.steps} steps", title_justify="left")
    for heading in ("", "seconds", "MB of the largest process that trains"):
        table.add_column(heading, justify="right" if heading else "left")
    for side in _SIDES:
        table.add_row(side, f"{seconds[side]:.1f}", f"{memory[side] / 1e6:,.0f}")
    table.add_row("ratio", f"{result['time_ratio']:.3f}", f"{result['memory_ratio']:.3f}")
    Console().print(table)
    about = {**{key: value for key, value in vars(options).items() if key != "out"}, "environment": environment()}
    write_atomically(options.out, json.dumps({**about, **result, "measured": found}, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
