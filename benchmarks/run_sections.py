"""The page's sections on studies, commands, decoding, serving, and how cost grows.

In: the JSON report that a benchmark wrote. Out: a `Section`. Nothing is measured here, so that a page can be written
again from stored reports alone.
"""

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.goals import Goal
from benchmarks.plots import Bars, Curve, Curves
from benchmarks.section import Report, Section, shown_median, shown_ms, shown_ratio, table_of

_STRAIGHT = (0.8, 1.25)
"""Between these a measured number over that of the line is not called a bend."""


def packed_sweep(report: Report) -> Section:
    """A study in packs beside one trial after another."""
    measured = {
        side: [statistics.median(column) for column in zip(*rounds, strict=True)]
        for side, rounds in report["measured"].items()
    }
    return Section(
        table=table_of(
            "trials|median s|MB of the largest process that trains",
            [
                *((side, f"{seconds:.1f}", f"{memory / 1e6:,.0f}") for side, (seconds, memory) in measured.items()),
                ("ratio", f"{report['time_ratio']:.3f}", f"{report['memory_ratio']:.3f}"),
            ],
        ),
        goals=[
            Goal("memory of a pack over that of one trial", report["memory_ratio"], 1.2),
            Goal("time in a pack over one trial after another", report["time_ratio"], 1.0),
        ],
        remarks=[
            f"{report['trials']} trials of {report['steps']} steps, batches of {report['batch_size']}, "
            f"{report['layers']} layers of width {report['width']}."
        ],
    )


def rung_ranking(report: Report) -> Section:
    """How a subset of the validation split ranks runs."""
    rows = []
    for size, one in report["agreement"].items():
        top = f"{'same' if one['top_1']['value'] else 'another'} ({one['top_1']['low']:.2f})"
        rows.append([size, *(_interval(one[name]) for name in ("kendall", "spearman")), top, _interval(one["regret"])])
    examples = report.get("whole_examples")
    whole = "" if examples is None else f", whose losses on {examples:,} examples stand for the whole split"
    return Section(
        table=table_of("examples|Kendall's tau|Spearman's rho|top-1 (resamples)|regret, nats/token", rows),
        remarks=[f"{len(report['losses'])} runs{whole}; intervals of 95% by a bootstrap over them."],
    )


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def cold_start(report: Report) -> Section:
    """CPU seconds up to the first step."""
    return Section(
        table=table_of(
            "|CPU seconds|ratio",
            [
                ["ptl-prefix train", f"{report['cpu_s']['train']:.2f}", f"{report['ratio']:.3f}"],
                ["a script by hand", f"{report['cpu_s']['script']:.2f}", "1"],
                ["ptl-prefix --help", f"{report['help_cpu_s']:.2f}", ""],
            ],
        ),
        goals=[
            Goal("ptl-prefix train over a script by hand", report["ratio"], 1.10),
            Goal("ptl-prefix --help", report["help_cpu_s"], 0.25, unit="CPU s"),
        ],
    )


def sweep_start(report: Report) -> Section:
    """Seconds until trials start."""
    return Section(
        table=table_of(
            "|seconds|ratio",
            [
                ["a study", f"{report['a study']:.1f}", f"{report['ratio']:.3f}"],
                ["a process each", f"{report['a process each']:.1f}", "1"],
                ["the first trial of a study starts after", f"{report['first_trial_s']:.1f}", ""],
                ["a trial server alone has imported after", f"{report['server_s']:.1f}", ""],
                [
                    "CPU seconds of the study's command until its first trial",
                    f"{report['command_cpu_s']:.1f}",
                    "",
                ],
            ],
        ),
        goals=[Goal("the first trial of a study starts after", report["first_trial_s"], 2.0, unit="s")],
    )


def cost_scale(report: Report) -> Section:
    """Cost against scale, beside the line of theory."""
    ratios = {name: [point["step_s"] / point["line_s"] for point in points] for name, points in report["axes"].items()}
    low, high = _STRAIGHT
    bent = [name for name, values in ratios.items() if not all(low <= value <= high for value in values)]
    return Section(
        table=table_of(
            "axis|value|ms|line of theory, ms|measured / line",
            (
                (
                    name,
                    f"{point['value']:,}",
                    shown_ms(point["step_s"]),
                    shown_ms(point["line_s"]),
                    f"{point['step_s'] / point['line_s']:.2f}",
                )
                for name, points in report["axes"].items()
                for point in points
            ),
        ),
        plot=scale_curves(report["axes"]),
        remarks=[
            f"{report['base']['dtype']}; the line goes through zero and the middle value of each axis. "
            + (f"A number that is not between {low} and {high} times the line has a reason:" if bent else ""),
            *(f"- {name}: {report['bends'][name]}" for name in bent),
        ],
    )


def scale_curves(axes: Mapping[str, Sequence[Mapping[str, float]]]) -> Curves:
    """The plot of all axes, in ms."""
    return Curves(
        "ms",
        {
            name: Curve(
                [point["value"] for point in points],
                [1e3 * point["step_s"] for point in points],
                [1e3 * point["line_s"] for point in points],
            )
            for name, points in axes.items()
        },
    )


def decode_time(report: Report) -> Section:
    """Decoding with prefixes beside the bare backbone."""
    return Section(
        table=table_of(
            "contender|median s|slowest s|over the bare backbone",
            (
                (name, shown_median(seconds), f"{max(seconds):.2f}", f"{report['times_bare'][name]:.3f}")
                for name, seconds in report["seconds"].items()
            ),
        ),
        plot=Bars("time over the bare backbone's", report["times_bare"], line=1.0),
    )


def decode_test_split(report: Report) -> Section:
    """Decoding in which rows that ended leave."""
    ratio = report["ratio"]
    return Section(
        table=table_of(
            "batch|median s|ratio",
            (
                (way, shown_median(seconds), shown_ratio(ratio) if way == "rows that ended leave" else "1")
                for way, seconds in report["seconds"].items()
            ),
        ),
        goals=[Goal("rows that ended leave, over waiting for the longest", ratio["median"], 0.75)],
        remarks=[
            f"{report['num_inputs']} inputs in batches of {report['batch_size']}, {report['backbone']} with a prefix "
            f"after {report['steps']} steps, {report['dtype']}; {report['num_different']} outputs differ."
        ],
    )


def serving(report: Report) -> Section:
    """Tokens per second of ways to serve."""
    rates = {name: statistics.median(one) for name, one in report["tokens_per_s"].items()}
    return Section(
        table=table_of(
            "contender|over|median|least|largest|goal",
            (
                (one, other, f"{median:.3f}", f"{least:.3f}", f"{largest:.3f}", goal)
                for one, other, median, least, largest, goal in report["ratios"]
            ),
        ),
        plot=Bars("tokens per second", rates),
    )
