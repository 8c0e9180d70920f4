"""Measures waiting times of the server's engine under an open load, with prefixes and without.

    python -m benchmarks.serving_latency                        # GPT-2-small shape, 50% and 90% of capacity
    python -m benchmarks.serving_latency --load 0.9 --requests 200

In: a shape with random weights, and a share of the engine's capacity. Out: seconds to the first token and between
tokens, median and 99th percentile, for the bare base and for 8 tasks mixed; a table, a JSON file and a figure.

Capacity is measured first: requests per second when all requests are there at once. Then requests arrive at random
(exponential gaps) at a share of that rate, whether or not earlier ones have been answered. Base and tasks get the same
arrivals, and their parts alternate.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.console import Console
from rich.table import Table

from benchmarks.serving_engine import MemoryStore, TimedAnswer, ask, random_prefix, running
from benchmarks.shapes import SHAPES, random_backbone
from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.serving.prefix_loading import LoadedPrefix

_NUM_TASKS = 8
_CONTENDERS = ("base", "mixed")


def play(
    backbone: Backbone,
    prefixes: Mapping[str, LoadedPrefix],
    prompts: Sequence[Sequence[int]],
    arrivals_s: Sequence[float],
    arguments: argparse.Namespace,
    *,
    is_mixed: bool,
) -> list[TimedAnswer]:
    """Send requests at their times, and wait for all answers."""
    with running(backbone, MemoryStore(prefixes), max_rows=arguments.rows) as engine:
        start, answers = time.perf_counter(), []
        for index, (prompt, arrival_s) in enumerate(zip(prompts, arrivals_s, strict=True)):
            time.sleep(max(0.0, start + arrival_s - time.perf_counter()))
            version = str(index % _NUM_TASKS) if is_mixed else None
            answers.append(ask(engine, version, prompt, arguments.new_tokens))
        for answer in answers:
            answer.is_finished.wait()
    return answers


def requests_per_s(answers: Sequence[TimedAnswer]) -> float:
    """Requests per second from the first request to the last token."""
    return len(answers) / (max(answer.token_times_s[-1] for answer in answers) - answers[0].asked_s)


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    return statistics.median(values), statistics.quantiles(values, n=100, method="inclusive")[98]


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """For each load and contender the answers' times."""
    backbone = random_backbone(arguments.shape, device="cpu", dtype=arguments.dtype)
    prefixes = {
        str(number): random_prefix(backbone, arguments.prefix_length, seed=number) for number in range(_NUM_TASKS)
    }
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(4, 2 * arguments.prompt_tokens - 3, (arguments.requests,), generator=generator).tolist()
    prompts = [torch.randint(1, 8000, (length,), generator=generator).tolist() for length in lengths]
    at_once = play(backbone, prefixes, prompts, [0.0] * len(prompts), arguments, is_mixed=False)
    capacity = requests_per_s(at_once)
    rows = []
    for load in arguments.load:
        draw = random.Random(0)
        arrivals, now = [], 0.0
        for _ in prompts:
            now += draw.expovariate(load * capacity)
            arrivals.append(now)
        for name in _CONTENDERS:
            answers = play(backbone, prefixes, prompts, arrivals, arguments, is_mixed=name == "mixed")
            rows.append(
                {
                    "load": load,
                    "contender": name,
                    "capacity_requests_per_s": capacity,
                    "first_token_s": [answer.first_token_s for answer in answers],
                    "gaps_s": [gap for answer in answers for gap in answer.gaps_s],
                }
            )
    return rows


def show(rows: Sequence[Mapping[str, Any]], title: str, console: Console) -> None:
    """Print percentiles."""
    table = Table(title=title)
    for heading in ("load", "contender", "first token, p50 s", "p99 s", "between tokens, p50 s", "p99 s", "longest s"):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    for row in rows:
        first, gaps = percentiles(row["first_token_s"]), percentiles(row["gaps_s"])
        numbers = (*first, *gaps, max(row["gaps_s"]))
        table.add_row(f"{row['load']:.0%}", row["contender"], *(f"{number:.3f}" for number in numbers))
    console.print(table)


def draw(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw the shares of requests and of gaps that are below a time."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    figure.suptitle(title, fontsize=9)
    for axes, key, label in zip(
        figure.subplots(1, 2),
        ("first_token_s", "gaps_s"),
        ("time to the first token", "time between tokens"),
        strict=True,
    ):
        for row in rows:
            values = sorted(1000 * value for value in row[key])
            shares = [(index + 1) / len(values) for index in range(len(values))]
            style = "-" if row["contender"] == "base" else "--"
            colour = f"C{list(dict.fromkeys(one['load'] for one in rows)).index(row['load'])}"
            name = f"{row['contender']}, {row['load']:.0%} of capacity"
            axes.step(values, shares, style, color=colour, where="post", label=name)
        axes.set(xscale="log", xlabel=f"{label}, ms", ylabel="share below")
        axes.xaxis.set_major_locator(LogLocator(base=2, subs=(1.0, 1.5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="gpt2")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rows", type=int, default=32, help="largest number of requests in a batch")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--prompt-tokens", type=int, default=32, help="mean; lengths are from 4 to twice as much")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--prefix-length", type=int, default=16)
    parser.add_argument("--load", type=float, nargs="+", default=[0.5, 0.9], help="shares of capacity")
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/serving_latency.json"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    rows = measure(arguments)
    title = (
        f"{arguments.requests} requests, {arguments.new_tokens} new tokens, prefixes of {arguments.prefix_length}, "
        f"{arguments.rows} rows: {arguments.shape} shape, {arguments.dtype}, CPU, capacity "
        f"{rows[0]['capacity_requests_per_s']:.2f} requests/s"
    )
    show(rows, title, Console())
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.json, json.dumps({"title": title, "rows": rows, "environment": environment()}, indent=2))
    picture = arguments.json.with_suffix(".svg")
    draw(rows, title, picture)
    print(f"written to {arguments.json} and {picture}")


if __name__ == "__main__":
    main()
