"""Compares a study whose trials train in a pack with the same study one trial after another: time and memory.

    python -m benchmarks.packed_sweep                           # 8 trials, 3 rounds
    python -m benchmarks.packed_sweep --trials 3 --rounds 1 --steps 4 --width 32 --layers 2

In: a random GPT-2. Out: for either side the median seconds of the whole study, and the largest resident memory of a
process that trains; and the medians of their ratios within a round. Both sides train the same trials, share nothing and
have the same number of threads; chance decides which of them comes first in a round. The largest memory of the other
side is that of one trial.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks import run_sections
from benchmarks.local_backbone import TrainCommand, random_gpt2, short_training
from benchmarks.report import finish
from benchmarks.rounds import add_limit, in_rounds, paired_ratio

_POLL_S = 0.02
PACKED, SEPARATE = "packed", "one after another"


def settings_of(folder: Path, steps: int, batch_size: int) -> list[str]:
    """The overrides of the trials on both sides."""
    return [
        *short_training(folder, num_train=256, num_validation=32, batch_size=batch_size, steps=steps),
        "method.reparam=none",
        "evaluation.compare_bare=false",
        "hydra.sweeper.reuse=false",
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
    began, peak = time.monotonic(), 0
    command = TrainCommand(["-m", *settings, *sweep], cwd)
    while command.is_running:
        peak = max(peak, _training_bytes(command.process.pid))
        time.sleep(_POLL_S)
    seconds = time.monotonic() - began
    command.wait()
    return seconds, peak


def _training_bytes(pid: int) -> int:
    """Resident bytes of the largest fork of the study's trial server."""
    with suppress(psutil.Error):
        forks = [fork for server in psutil.Process(pid).children() for fork in server.children()]
        return max((fork.memory_info().rss for fork in forks), default=0)
    return 0


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure both sides, print a table and write a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    add_limit(parser)
    parser.add_argument("--out", "--json", dest="out", type=Path, default=Path("outputs/benchmarks/packed_sweep.json"))
    options = parser.parse_args(words)
    with random_gpt2(width=options.width, layers=options.layers, heads=max(1, options.width // 64)) as folder:
        settings = settings_of(folder, options.steps, options.batch_size)
        numbers = itertools.count()

        def turn(pack: int) -> tuple[float, int]:
            return measure(settings, options.trials, pack, folder / str(next(numbers)))

        sides = {PACKED: options.trials, SEPARATE: 1}
        turns: dict[str, Callable[[], tuple[float, int]]] = {side: partial(turn, pack) for side, pack in sides.items()}
        measured = in_rounds(turns, rounds=options.rounds, limit_s=options.limit_s)
    time_ratio, memory_ratio = (
        paired_ratio(*([one[part] for one in measured[side]] for side in (PACKED, SEPARATE))).median for part in (0, 1)
    )
    result = {"time_ratio": time_ratio, "memory_ratio": memory_ratio, "measured": measured}
    about = {key: value for key, value in vars(options).items() if key not in ("limit_s", "out")}
    finish(options.out, {**about, **result}, run_sections.packed_sweep)
    return result


if __name__ == "__main__":
    main()
