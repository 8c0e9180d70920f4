"""Time and peak memory of one training step, side by side.

    python -m benchmarks.step_time                                # GPT-2-small shape, this machine's processor
    python -m benchmarks.step_time --shape tiny --steps 20
    python -m benchmarks.step_time --device cuda --batch-size 32 --steps 50

In: a shape with random weights, a batch of random ids. Out: for each contender the median time of a step (forward,
backward, AdamW), its peak memory, and how many times faster than PEFT with the same parameters it is.

Steps of all contenders are interleaved, one of each a round and each round in another order, so that a slow minute of
the machine slows everyone. Peak memory counts from before the model is built, libraries left out: on a GPU as torch
allocates it, elsewhere the growth of a process of its own, which does nothing else. Nothing here needs data or a
network.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.peak_memory import peak_memories
from benchmarks.training_steps import CONTENDERS, SHAPES, Setting
from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.backbones.attention_sites import has_native_bfloat16


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one contender cost: seconds of a median step, and bytes at the peak of one."""

    label: str
    step_s: float
    slowest_s: float
    peak_memory_bytes: int
    speed_over_peft: float | None


def interleaved_times(names: Sequence[str], setting: Setting, *, num_steps: int, warmup: int) -> dict[str, list[float]]:
    """Seconds of every step of everyone, in rounds."""
    steps = {name: CONTENDERS[name].build(setting) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    shuffler = random.Random(0)
    for round_number in range(warmup + num_steps):
        for name in shuffler.sample(names, len(names)):
            start = time.perf_counter()
            steps[name]()
            if round_number >= warmup:
                times[name].append(time.perf_counter() - start)
    return times


def measure(names: Sequence[str], setting: Setting, *, num_steps: int, warmup: int) -> list[Measurement]:
    """Memory first, while this process holds no model; then time."""
    peaks = peak_memories(names, setting)
    times = interleaved_times(names, setting, num_steps=num_steps, warmup=warmup)
    medians = {name: statistics.median(times[name]) for name in names}
    measurements = []
    for name in names:
        rival = medians.get(CONTENDERS[name].rival or "")
        measurements.append(
            Measurement(
                label=CONTENDERS[name].label,
                step_s=medians[name],
                slowest_s=max(times[name]),
                peak_memory_bytes=peaks[name],
                speed_over_peft=None if rival is None else rival / medians[name],
            )
        )
    return measurements


def show(measurements: Sequence[Measurement], title: str, console: Console) -> None:
    table = Table(title=title)
    for heading in ("step", "median ms", "slowest ms", "peak MB", "times as fast as PEFT"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for m in measurements:
        ratio = "" if m.speed_over_peft is None else f"{m.speed_over_peft:.2f}"
        table.add_row(
            m.label, f"{m.step_s * 1e3:.1f}", f"{m.slowest_s * 1e3:.1f}", f"{m.peak_memory_bytes / 1e6:.0f}", ratio
        )
    console.print(table)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="gpt2")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="auto: bfloat16 if native"
    )
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--source-tokens", type=int, default=32)
    parser.add_argument("--target-tokens", type=int, default=32)
    parser.add_argument("--prefix-length", type=int, default=10)
    parser.add_argument("--reparam-hidden-size", type=int, default=512, help="of the MLP, on both sides")
    parser.add_argument("--steps", type=int, default=10, help="rounds that are measured")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them")
    parser.add_argument("--only", nargs="+", choices=tuple(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/step_time.json"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    dtype = arguments.dtype
    if dtype == "auto":
        dtype = "bfloat16" if has_native_bfloat16(torch.device(arguments.device)) else "float32"
    setting = Setting(
        shape=arguments.shape,
        device=arguments.device,
        dtype=dtype,
        batch_size=arguments.batch_size,
        source_tokens=arguments.source_tokens,
        target_tokens=arguments.target_tokens,
        prefix_length=arguments.prefix_length,
        hidden_size=arguments.reparam_hidden_size,
    )
    console = Console()
    measurements = measure(arguments.only, setting, num_steps=arguments.steps, warmup=arguments.warmup)
    title = f"one training step: {setting.shape} shape, {setting.dtype}, {setting.device}, batch {setting.batch_size}"
    show(measurements, title, console)
    report = {"setting": asdict(setting), "num_steps": arguments.steps, "environment": environment()}
    rows = [asdict(measurement) for measurement in measurements]
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.json, json.dumps({**report, "measurements": rows}, indent=2))
    console.print(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
