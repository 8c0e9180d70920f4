"""How cost grows with scale, beside the straight line of theory.

    python -m benchmarks.cost_scale                          # every axis, layers of GPT-2's width
    python -m benchmarks.cost_scale --axes batch layers --rounds 5
    python -m benchmarks.cost_scale --device cuda --dtype bfloat16

In: axes, such as the batch size. Out: for each value of an axis the median seconds, and those on the line through the
axis's middle value and zero. For a training step of a prefix, the line is what it would take if its cost were its
multiplications alone, by a count of the matrix products; for a server's first scan of its bundles, their number; for a
batch of requests it is flat, whatever else is in the store. Above the line, small sizes pay for what does not grow;
below it, large ones use the machine better. A JSON report, and one plot with a panel for each axis.

Random weights, random ids, rows without padding, a plain table as prefix. Each axis is measured in rounds of a random
order.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks import run_sections
from benchmarks.report import finish
from benchmarks.rounds import add_limit, in_rounds, timed
from benchmarks.scale_axes import AXES, Axis
from benchmarks.shapes import depth_shape, dtype_for
from benchmarks.step_builders import Setting

BASE = Setting(
    shape=depth_shape(12),
    device="cpu",
    dtype="float32",
    batch_size=4,
    source_tokens=32,
    target_tokens=32,
    prefix_length=10,
    hidden_size=512,
    rank=4,
)


@dataclass(frozen=True)
class Point:
    """One value of an axis.

    Args:
        value: The value.
        step_s: Median seconds.
        line_s: Seconds on the line of theory.
    """

    value: int
    step_s: float
    line_s: float


def line(costs: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """The seconds of the line through zero and the middle point."""
    middle = len(costs) // 2
    return [seconds[middle] * cost / costs[middle] for cost in costs]


def measure(axis: Axis, base: Setting, *, rounds: int, warmup: int = 1, limit_s: float = float("inf")) -> list[Point]:
    """Measure every value of an axis."""
    turns = {value: timed(axis.build(base, value)) for value in axis.values}
    times = in_rounds(turns, rounds=rounds, warmup=warmup, limit_s=limit_s)
    medians = [statistics.median(times[value]) for value in axis.values]
    costs = [axis.cost(base, value) for value in axis.values]
    return [Point(*one) for one in zip(axis.values, medians, line(costs, medians), strict=True)]


def main(words: Sequence[str] | None = None) -> dict[str, list[Point]]:
    """Measure the chosen axes, print a table, and write a report and a plot."""
    names = {name.replace(",", "").replace(" ", "_"): name for name in AXES}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=tuple(names), default=list(names))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=int, help="largest value of every axis; default: all values")
    parser.add_argument("--layers", type=int, default=12, help="layers of the shape on other axes than `layers`")
    add_limit(parser)
    parser.add_argument("--out", "--json", dest="out", type=Path, default=Path("outputs/benchmarks/cost_scale.json"))
    options = parser.parse_args(words)
    dtype = dtype_for(options.dtype, options.device)
    base = replace(BASE, device=options.device, dtype=dtype, shape=depth_shape(options.layers))
    found: dict[str, list[Point]] = {}
    for name in (names[given] for given in options.axes):
        axis = AXES[name]
        kept = tuple(value for value in axis.values if options.most is None or value <= options.most)
        axis = replace(axis, values=kept or axis.values[:1])
        found[name] = measure(axis, base, rounds=options.rounds, limit_s=options.limit_s)
    axes = {name: [asdict(point) for point in measured] for name, measured in found.items()}
    run_sections.scale_curves(axes).draw(options.out.with_suffix(".svg"))
    bends = {name: AXES[name].bends for name in found}
    values = {"rounds": options.rounds, "base": asdict(base), "axes": axes, "bends": bends}
    finish(options.out, values, run_sections.cost_scale)
    return found


if __name__ == "__main__":
    main()
