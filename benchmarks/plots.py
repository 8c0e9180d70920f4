"""Plots of the benchmarks' results, as SVG files; the same numbers make the same file.

In: `Bars` or `Curves`. Out: a file.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

_COLUMNS = 4


@dataclass(frozen=True)
class Bars:
    """A plot of one number for each label.

    Args:
        unit: What the numbers are.
        values: Number of each label.
        line: Number at which a line is drawn, such as a ratio of 1; `None` for none.
    """

    unit: str
    values: Mapping[str, float]
    line: float | None = None

    def draw(self, path: Path) -> None:
        """Draw a bar for each label."""
        with _figure(path, (8, 0.9 + 0.3 * len(self.values))) as figure:
            axes = figure.subplots()
            drawn = axes.barh(list(self.values)[::-1], list(self.values.values())[::-1], color="C0")
            axes.bar_label(drawn, fmt="%.3g", padding=4, fontsize=8)
            axes.margins(x=0.1)
            if self.line is not None:
                axes.axvline(self.line, color="0.4", linewidth=1)
            axes.set_xlabel(self.unit, fontsize=9)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)


@dataclass(frozen=True)
class Curve:
    """Measured numbers beside the line of theory.

    Args:
        values: Places on the horizontal axis.
        measured: Number at each place.
        line: Number on the line at each place.
    """

    values: Sequence[float]
    measured: Sequence[float]
    line: Sequence[float]


@dataclass(frozen=True)
class Curves:
    """A plot with a panel for each curve, both axes logarithmic.

    Args:
        unit: What the numbers are.
        values: Curve of each panel, by the name of its horizontal axis.
    """

    unit: str
    values: Mapping[str, Curve]

    def draw(self, path: Path) -> None:
        """Draw the panels, four in a row."""
        columns = min(_COLUMNS, len(self.values))
        rows = -(-len(self.values) // columns)
        with _figure(path, (3.2 * columns, 2.8 * rows)) as figure:
            panels = figure.subplots(rows, columns, squeeze=False).flatten()
            for panel, (name, curve) in zip(panels, self.values.items(), strict=False):
                panel.plot(curve.values, curve.measured, "o-", label="measured")
                panel.plot(curve.values, curve.line, "--", color="0.4", label="line of theory")
                panel.set(xlabel=name, ylabel=self.unit, xscale="log", yscale="log")
                panel.legend(fontsize=7)
            for panel in panels[len(self.values) :]:
                panel.set_axis_off()


@contextmanager
def _figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure that is written to a path at the end."""
    with mpl.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none"}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
