"""Plots of the simulations: where the workers' time goes, and the scheduler's processor time.

In: the reports of a folder. Out: two SVG files.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.sweep_scale.settings import SCAN

_KINDS = {
    "next: new": "a new trial",
    "next: wait": "nothing to do yet",
    "close": "a result is recorded",
    "report": "a validation",
}
_COLOURS = ("#0b6e99", "#c1541c", "#5b8c2a", "#7a4f9e")


def draw(reports: Path, folder: Path) -> None:
    """Draw `sweep_scale_lock.svg` and `sweep_scale_cpu.svg`."""
    every = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(reports.glob("*.json"))]
    with mpl.rc_context(
        {"svg.hashsalt": "sweep_scale", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    ):
        _draw_lock(every, folder / "sweep_scale_lock.svg")
        _draw_cpu(max(every, key=lambda report: report["settings"]["trials"]), folder / "sweep_scale_cpu.svg")


def _draw_lock(reports: list[dict[str, Any]], path: Path) -> None:
    """The share of the workers' time that is spent waiting for the lock, by jobs a second."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    scanned = [asdict(settings) for settings in SCAN]
    scan = [report for report in reports if report["settings"] in scanned]
    for colour, latency_s in zip(_COLOURS, sorted({report["settings"]["latency_s"] for report in scan}), strict=False):
        points = sorted(
            (demand(report), 100 * waiting_share(report))
            for report in scan
            if report["settings"]["latency_s"] == latency_s
        )
        axes.plot(
            *zip(*points, strict=True), marker="o", color=colour, label=f"{1000 * latency_s:g} ms for a read or append"
        )
    axes.set_xscale("log")
    axes.set_xlabel("jobs that the workers could train in a second")
    axes.set_ylabel("time waiting for the lock, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def demand(report: dict[str, Any]) -> float:
    """Jobs a second that the workers would take if nothing but training took time."""
    jobs = sum(number for name, number in report["counts"].items() if name.startswith("handed out"))
    training_s = report["worker hours"]["training"] * 3600
    return float(report["settings"]["workers"] * jobs / training_s)


def waiting_share(report: dict[str, Any]) -> float:
    """The share of waiting for the lock in the time of workers that had, wanted or closed a trial."""
    hours = report["worker hours"]
    waiting = hours.get("waiting for the lock", 0.0)
    return float(waiting / (waiting + hours["training"] + hours["deciding"]))


def _draw_cpu(report: dict[str, Any], path: Path) -> None:
    """The processor's time of each kind of decision, by the trials of the study."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for colour, (kind, label) in zip(_COLOURS, _KINDS.items(), strict=True):
        points = [(int(size), mean) for size, (_, mean) in report["cpu_ms"].get(kind, {}).items()]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, label=label)
    axes.set_xlabel("trials of the study so far")
    axes.set_ylabel("processor time, ms")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
