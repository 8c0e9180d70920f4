"""Time and peak memory of one training step, side by side.

    python -m benchmarks.step_time                                # shapes that this machine's processor can bear
    python -m benchmarks.step_time --shape tiny tiny_llama --steps 20
    python -m benchmarks.step_time --device cuda --batch-size 32 --steps 50     # GPT-2 medium, a LLaMA of 1B

In: shapes with random weights, a batch of random ids. Out: for each contender the median time of a step (forward,
backward, AdamW), its peak memory, and how that time compares with full fine-tuning's, and with PEFT's where both train
the same parameters. A ratio is the median of the ratios within rounds, with their quartiles.

Steps of all contenders are interleaved, one of each a round and each round in another order, so that a slow minute of
the machine slows everyone. Those that train no weights of the backbone share one copy of it. Peak memory is what
torch's allocator was asked for, weights included, in a process that does nothing else. Nothing here needs data or a
network.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.peak_memory import peak_memories
from benchmarks.shapes import SHAPES
from benchmarks.step_builders import CONTENDERS, Setting, Training, check_alike
from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.backbones.attention_sites import has_native_bfloat16

FULL = "full"
_ON_GPU = ("gpt2_medium", "llama_1b")
_ON_CPU = ("gpt2", "small_llama")
_TABLE_WIDTH = 132


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How two times of the same round compare: the median of all rounds, and the quartiles around it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one contender cost.

    Args:
        label: What the table calls it.
        num_trained: Numbers that it trains.
        step_s: Seconds of a median step.
        slowest_s: Of the slowest one.
        peak_memory_bytes: At the peak of a step; `None` on a device that does not tell.
        speed_over_full: Steps in the time of one of full fine-tuning; `None` where that was not measured.
        speed_over_peft: Steps in the time of one of PEFT's with the same parameters; `None` likewise.
    """

    label: str
    num_trained: int
    step_s: float
    slowest_s: float
    peak_memory_bytes: int | None
    speed_over_full: Ratio | None
    speed_over_peft: Ratio | None


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """The ratio of two contenders' times, round by round."""
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Ratio(median=median, low=low, high=high)


def interleaved_times(trainings: Mapping[str, Training], *, num_steps: int, warmup: int) -> dict[str, list[float]]:
    """Seconds of every step of everyone, in rounds."""
    times: dict[str, list[float]] = {name: [] for name in trainings}
    shuffler = random.Random(0)
    for round_number in range(warmup + num_steps):
        for name in shuffler.sample(list(trainings), len(trainings)):
            start = time.perf_counter()
            trainings[name].step()
            if round_number >= warmup:
                times[name].append(time.perf_counter() - start)
    return times


def measure(names: Sequence[str], setting: Setting, *, num_steps: int, warmup: int) -> list[Measurement]:
    """Memory first, while this process holds no model; then time."""
    peaks = peak_memories(names, setting)
    trainings = {name: CONTENDERS[name].build(setting) for name in names}
    check_alike(trainings)
    times = interleaved_times(trainings, num_steps=num_steps, warmup=warmup)

    def over(other: str | None, name: str) -> Ratio | None:
        return paired_ratio(times[other], times[name]) if other in times and other != name else None

    return [
        Measurement(
            label=CONTENDERS[name].label,
            num_trained=trainings[name].num_trained,
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
    for heading in ("step", "trained", "median ms", "slowest ms", "peak MB", "speed over full", "speed over PEFT"):
        table.add_column(heading, justify="left" if heading == "step" else "right", no_wrap=True)
    for m in measurements:
        peak = "" if m.peak_memory_bytes is None else f"{m.peak_memory_bytes / 1e6:,.0f}"
        times = (f"{m.step_s * 1e3:.1f}", f"{m.slowest_s * 1e3:.1f}", peak)
        ratios = ("" if ratio is None else str(ratio) for ratio in (m.speed_over_full, m.speed_over_peft))
        table.add_row(m.label, f"{m.num_trained:,}", *times, *ratios)
    console.print(table)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = f"by default {' '.join(_ON_GPU)} on a GPU and {' '.join(_ON_CPU)} elsewhere"
    parser.add_argument("--shape", nargs="+", choices=tuple(SHAPES), help=usual)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="auto: bfloat16 if native"
    )
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--source-tokens", type=int, default=32)
    parser.add_argument("--target-tokens", type=int, default=32)
    parser.add_argument("--prefix-length", type=int, default=10)
    parser.add_argument("--reparam-hidden-size", type=int, default=512, help="of the MLP, on both sides")
    parser.add_argument("--rank", type=int, default=4, help="of LoRA, on both sides")
    parser.add_argument("--steps", type=int, default=10, help="rounds that are measured")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them")
    parser.add_argument("--only", nargs="+", choices=tuple(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/step_time.json"))
    arguments = parser.parse_args(words)
    arguments.is_on_gpu = torch.device(arguments.device).type == "cuda"
    arguments.shape = arguments.shape or list(_ON_GPU if arguments.is_on_gpu else _ON_CPU)
    if arguments.dtype == "auto":
        arguments.dtype = "bfloat16" if has_native_bfloat16(torch.device(arguments.device)) else "float32"
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
        measurements = measure(arguments.only, setting, num_steps=arguments.steps, warmup=arguments.warmup)
        title = f"one training step: {shape} shape, {setting.dtype}, {setting.device}, batch {setting.batch_size}"
        show(measurements, title, _caption(arguments), console)
        measured.append({"setting": asdict(setting), "measurements": [asdict(m) for m in measurements]})
    report = {"num_steps": arguments.steps, "environment": environment(), "measured": measured}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.json, json.dumps(report, indent=2))
    console.print(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
