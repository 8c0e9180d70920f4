"""Compares the time and peak memory of one training step.

    python -m benchmarks.step_time                                # shapes that are small enough for a CPU
    python -m benchmarks.step_time --shape tiny tiny_llama --steps 20
    python -m benchmarks.step_time --device cuda --batch-size 32 --steps 50     # GPT-2 medium and LLaMA 1B

In: shapes with random weights, and a batch of random ids. Out: for each contender, the median time of a step (forward,
backward, AdamW), its peak memory, and its speed relative to full fine-tuning, and to PEFT if both train the same
parameters. A ratio is the median of the per-round ratios, with quartiles.

Each round runs one step of every contender in a random order, so that a slow period of the machine affects all of them.
Contenders that do not train the backbone share one copy of it. Peak memory is measured in a separate process; it counts
the bytes requested from torch's allocator, including weights. No data and no network are needed.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.peak_memory import peak_memories
from benchmarks.rounds import Ratio, add_limit, in_rounds, paired_ratio, timed
from benchmarks.shapes import SHAPES, dtype_for
from benchmarks.step_builders import CONTENDERS, Setting, check_comparable
from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import environment

FULL = "full"
_ON_GPU = ("gpt2_medium", "llama_1b")
_ON_CPU = ("gpt2", "small_llama")
_TABLE_WIDTH = 132


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The cost of one contender.

    Args:
        label: Name in the table.
        num_trained: Number of trainable parameters.
        rounds: Measured steps.
        step_s: Median seconds per step.
        slowest_s: Seconds of the slowest step.
        peak_memory_bytes: Peak memory of a step; `None` if the device does not report it.
        speed_over_full: Speed relative to full fine-tuning; `None` if that was not measured.
        speed_over_peft: Speed relative to PEFT with the same parameters; `None` if that was not measured.
    """

    label: str
    num_trained: int
    rounds: int
    step_s: float
    slowest_s: float
    peak_memory_bytes: int | None
    speed_over_full: Ratio | None
    speed_over_peft: Ratio | None


def measure(
    names: Sequence[str], setting: Setting, *, num_steps: int, warmup: int, limit_s: float = float("inf")
) -> list[Measurement]:
    """Measure memory first, while this process holds no model, then time."""
    peaks = peak_memories(names, setting)
    trainings = {name: CONTENDERS[name].build(setting) for name in names}
    check_comparable(trainings)
    turns = {name: timed(training.step) for name, training in trainings.items()}
    times = in_rounds(turns, rounds=num_steps, warmup=warmup, limit_s=limit_s)

    def over(other: str | None, name: str) -> Ratio | None:
        return paired_ratio(times[other], times[name]) if other in times and other != name else None

    return [
        Measurement(
            label=CONTENDERS[name].label,
            num_trained=trainings[name].num_trained,
            rounds=len(times[name]),
            step_s=statistics.median(times[name]),
            slowest_s=max(times[name]),
            peak_memory_bytes=peaks[name],
            speed_over_full=over(FULL, name),
            speed_over_peft=over(CONTENDERS[name].rival, name),
        )
        for name in names
    ]


def show(measurements: Sequence[Measurement], title: str, caption: str, console: Console) -> None:
    table = Table(title=title, caption=caption, caption_justify="left")
    for heading in (
        "step",
        "trainable params",
        "median ms",
        "slowest ms",
        "peak MB",
        "speed over full",
        "speed over PEFT",
    ):
        table.add_column(heading, justify="left" if heading == "step" else "right", no_wrap=True)
    for m in measurements:
        peak = "" if m.peak_memory_bytes is None else f"{m.peak_memory_bytes / 1e6:,.0f}"
        times = (f"{m.step_s * 1e3:.1f}", f"{m.slowest_s * 1e3:.1f}", peak)
        ratios = ("" if ratio is None else str(ratio) for ratio in (m.speed_over_full, m.speed_over_peft))
        table.add_row(m.label, f"{m.num_trained:,}", *times, *ratios)
    console.print(table)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_shapes = f"default: {' '.join(_ON_GPU)} on a GPU and {' '.join(_ON_CPU)} elsewhere"
    parser.add_argument("--shape", nargs="+", choices=tuple(SHAPES), help=default_shapes)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="auto: bfloat16 if native"
    )
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--source-tokens", type=int, default=32)
    parser.add_argument("--target-tokens", type=int, default=32)
    parser.add_argument("--prefix-length", type=int, default=10)
    parser.add_argument("--reparam-hidden-size", type=int, default=512, help="hidden size of the MLP, here and in PEFT")
    parser.add_argument("--rank", type=int, default=4, help="rank of LoRA, here and in PEFT")
    parser.add_argument("--steps", type=int, default=10, help="number of measured rounds")
    parser.add_argument("--warmup", type=int, default=2, help="number of rounds before the measured ones")
    add_limit(parser)
    parser.add_argument("--only", nargs="+", choices=tuple(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/step_time.json"))
    arguments = parser.parse_args(words)
    arguments.is_on_gpu = torch.device(arguments.device).type == "cuda"
    arguments.shape = arguments.shape or list(_ON_GPU if arguments.is_on_gpu else _ON_CPU)
    arguments.dtype = dtype_for(arguments.dtype, arguments.device)
    return arguments


def setting_of(shape: str, arguments: argparse.Namespace) -> Setting:
    return Setting(
        shape=shape,
        device=arguments.device,
        dtype=arguments.dtype,
        batch_size=arguments.batch_size,
        source_tokens=arguments.source_tokens,
        target_tokens=arguments.target_tokens,
        prefix_length=arguments.prefix_length,
        hidden_size=arguments.reparam_hidden_size,
        rank=arguments.rank,
    )


def _caption(arguments: argparse.Namespace) -> str:
    tokens = f"rows of up to {arguments.source_tokens} + {arguments.target_tokens} tokens"
    smaller = "" if arguments.is_on_gpu else f"; smaller shapes than a GPU's {' and '.join(_ON_GPU)}"
    is_smaller = not set(arguments.shape) & set(_ON_GPU)
    return f"{tokens}, prefix of {arguments.prefix_length}, rank {arguments.rank}{smaller if is_smaller else ''}"


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    console = Console()
    console.width = max(console.width, _TABLE_WIDTH)
    measured = []
    for shape in arguments.shape:
        setting = setting_of(shape, arguments)
        numbers = {"num_steps": arguments.steps, "warmup": arguments.warmup, "limit_s": arguments.limit_s}
        measurements = measure(arguments.only, setting, **numbers)
        title = f"one training step: {shape} shape, {setting.dtype}, {setting.device}, batch {setting.batch_size}"
        show(measurements, title, _caption(arguments), console)
        measured.append({"setting": asdict(setting), "measurements": [asdict(m) for m in measurements]})
    report = {"environment": environment(), "measured": measured}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.json, json.dumps(report, indent=2))
    console.print(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
