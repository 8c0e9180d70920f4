"""How the cost of a training step grows with its scale, beside the straight line of theory.

    python -m benchmarks.cost_scale                          # every axis, GPT-2's shape; leave the machine alone
    python -m benchmarks.cost_scale --axes batch layers --rounds 5
    python -m benchmarks.cost_scale --device cuda --dtype bfloat16

In: axes, such as the batch size. Out: for each value of an axis the median seconds of a step of prefix-tuning, its
multiplications by a count of the matrix products, and the seconds of the line through the axis's middle value and zero:
what the step would take if its cost were its multiplications alone. Above the line, small shapes pay for overhead;
below it, large ones use the machine better. A JSON report and one plot with a panel for each axis.

Random weights, random ids, rows without padding, a plain table as prefix.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.attention_ways import synchronize
from benchmarks.packed_step import PackedTrials
from benchmarks.shapes import SHAPES, depth_shape, width_shape
from benchmarks.step_builders import CONTENDERS, Setting
from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import environment

_BASE = Setting(
    shape=depth_shape(12),
    device="cpu",
    dtype="float32",
    batch_size=8,
    source_tokens=64,
    target_tokens=64,
    prefix_length=10,
    hidden_size=512,
    rank=4,
)


@dataclass(frozen=True)
class Axis:
    """One way in which a step grows.

    Args:
        values: The measured values, ascending.
        change: The setting at a value.
        num_trials: Number of trials that share a step at a value; 1 for most axes.
    """

    values: tuple[int, ...]
    change: Callable[[Setting, int], Setting]
    num_trials: Callable[[int], int] = lambda value: 1


AXES: Mapping[str, Axis] = {
    "prefix length": Axis((1, 10, 50, 100, 200, 400), lambda one, value: replace(one, prefix_length=value)),
    "batch": Axis((1, 2, 4, 8, 16, 32, 64), lambda one, value: replace(one, batch_size=value)),
    "text": Axis(
        (32, 64, 128, 256, 512),
        lambda one, value: replace(one, source_tokens=value // 2, target_tokens=value // 2),
    ),
    "layers": Axis((1, 2, 4, 8, 12, 24), lambda one, value: replace(one, shape=depth_shape(value))),
    "width": Axis((128, 256, 512, 768, 1024), lambda one, value: replace(one, shape=width_shape(value))),
    "trials": Axis((1, 2, 4, 8, 16), lambda one, value: replace(one, batch_size=2), lambda value: value),
}
"""By the name that `--axes` takes, with `_` for a space."""


def multiplications(setting: Setting, num_trials: int = 1) -> float:
    """Multiplications of a step: the matrix products of the layers, of attention, and of the LM head at targets.

    A frozen weight is used twice, forward and for the gradient of its input; attention's products three times, as both
    of their factors have a gradient.
    """
    config = SHAPES[setting.shape]()
    width, text = config.n_embd, setting.source_tokens + setting.target_tokens
    tokens = num_trials * setting.batch_size * text
    layers = 2 * tokens * config.n_layer * 12 * width**2
    attention = 3 * tokens * config.n_layer * 2 * width * (setting.prefix_length + text)
    head = 2 * num_trials * setting.batch_size * setting.target_tokens * width * config.vocab_size
    return float(layers + attention + head)


@dataclass(frozen=True)
class Point:
    """One value of an axis.

    Args:
        value: The value.
        step_s: Median seconds of a step.
        line_s: Seconds on the line of theory.
    """

    value: int
    step_s: float
    line_s: float


def line(costs: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """The seconds of the line through zero and the middle point."""
    middle = len(costs) // 2
    return [seconds[middle] * cost / costs[middle] for cost in costs]


def measure(axis: Axis, base: Setting, *, rounds: int, warmup: int = 1) -> list[Point]:
    """Measure every value of an axis, in rounds of a random order, so that a slow period affects all of them."""
    settings = {value: axis.change(base, value) for value in axis.values}
    steps = {value: _step(setting, axis.num_trials(value)) for value, setting in settings.items()}
    times: dict[int, list[float]] = {value: [] for value in axis.values}
    shuffler = random.Random(0)
    for number in range(warmup + rounds):
        for value in shuffler.sample(axis.values, len(axis.values)):
            began = time.perf_counter()
            steps[value]()
            if number >= warmup:
                times[value].append(time.perf_counter() - began)
    medians = [statistics.median(times[value]) for value in axis.values]
    costs = [multiplications(settings[value], axis.num_trials(value)) for value in axis.values]
    return [Point(*one) for one in zip(axis.values, medians, line(costs, medians), strict=True)]


def _step(setting: Setting, num_trials: int) -> Callable[[], object]:
    """A step that has ended when it returns, on a GPU too."""
    if num_trials == 1:
        return CONTENDERS["ours"].build(setting).step
    trials = PackedTrials(setting, num_trials)

    def step() -> None:
        trials.packed_step()
        synchronize(setting.device)

    return step


def draw(found: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Draw a panel for each axis: the measured steps, and the line."""
    with mpl.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}):
        figure = Figure(figsize=(4 * len(found), 3.2), layout="constrained")
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for panel, (name, points) in zip(panels, found.items(), strict=True):
            values = [point.value for point in points]
            panel.plot(values, [1e3 * point.step_s for point in points], "o-", label="measured")
            on_line = [1e3 * point.line_s for point in points]
            panel.plot(values, on_line, "--", color="0.4", label="multiplications alone")
            panel.set(xlabel=name, ylabel="ms per step", xscale="log", yscale="log")
            panel.legend(fontsize=7)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def main(words: Sequence[str] | None = None) -> dict[str, list[Point]]:
    """Measure the chosen axes, print a table, and write a report and a plot."""
    names = {name.replace(" ", "_"): name for name in AXES}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=tuple(names), default=list(names))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=int, help="largest value of every axis; default: all values")
    parser.add_argument("--layers", type=int, default=12, help="layers of the shape on other axes than `layers`")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/cost_scale.json"))
    options = parser.parse_args(words)
    base = replace(_BASE, device=options.device, dtype=options.dtype, shape=depth_shape(options.layers))
    found: dict[str, list[Point]] = {}
    for name in (names[given] for given in options.axes):
        axis = AXES[name]
        kept = tuple(value for value in axis.values if options.most is None or value <= options.most)
        found[name] = measure(replace(axis, values=kept or axis.values[:1]), base, rounds=options.rounds)
    table = Table(title=f"prefix-tuning steps, {options.dtype}, {options.device}", title_justify="left")
    for heading in ("axis", "value", "ms per step", "line of theory, ms", "measured / line"):
        table.add_column(heading, justify="left" if heading == "axis" else "right")
    for name, points in found.items():
        for one in points:
            numbers = (f"{1e3 * one.step_s:.1f}", f"{1e3 * one.line_s:.1f}", f"{one.step_s / one.line_s:.2f}")
            table.add_row(name, str(one.value), *numbers)
    Console().print(table)
    draw(found, options.out.with_suffix(".svg"))
    axes = {name: [asdict(point) for point in measured] for name, measured in found.items()}
    report = {"rounds": options.rounds, "base": asdict(base), "axes": axes, "environment": environment()}
    write_atomically(options.out, json.dumps(report, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
