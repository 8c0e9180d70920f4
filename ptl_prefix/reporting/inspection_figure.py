"""An inspection as a figure: for each attention site, attention to the prefix and to its tokens, and their norms.

In: an `Inspection`. Out: the bytes of a PNG. Nothing here uses pyplot, so drawing needs no display and leaves no global
state.
"""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from ptl_prefix.artifacts.inspection import Inspection, SiteInspection

_DPI = 150
_WIDTH, _SITE_HEIGHT = 13.0, 7.4
_MAX_NUMBERED_CELLS = 160
_MAX_TICKS = 16
_TICK_STEPS = [factor * 10**power for power in range(9) for factor in (1, 2, 5)]
_DEAD_COLOUR = "#c0392b"


def render_inspection(inspection: Inspection) -> bytes:
    """Draw an inspection as a PNG."""
    figure = _figure(inspection)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _figure(inspection: Inspection) -> Figure:
    figure = Figure(figsize=(_WIDTH, _SITE_HEIGHT * len(inspection.sites) + 0.6), layout="constrained")
    lengths = ", ".join(map(str, sorted({site.prefix_length for site in inspection.sites.values()})))
    figure.suptitle(
        f"{inspection.method} on {inspection.backbone}, {inspection.task}, prefix length {lengths}\n"
        f"over {inspection.num_texts} {'text' if inspection.num_texts == 1 else 'texts'} {_truncate(inspection.texts)}",
        fontsize=13,
    )
    rows = figure.subfigures(len(inspection.sites), 1, squeeze=False)
    for (part,), (name, site) in zip(rows, inspection.sites.items(), strict=True):
        if len(inspection.sites) > 1:
            part.suptitle(name, fontsize=12, fontweight="bold")
        (mass, tokens), (keys, values) = part.subplots(2, 2)
        _draw_mass(mass, site)
        _draw_tokens(tokens, site, inspection.dead_below)
        scale = _norm_scale(site)
        _draw_norms(keys, site, site.key_norms, "Norm of the keys", scale)
        _draw_norms(values, site, site.value_norms, "Norm of the values", scale)
    return figure


def _draw_mass(axes: Axes, site: SiteInspection) -> None:
    image = _heatmap(axes, site.mass, site.layers, Normalize(0.0, 1.0), "viridis")
    lowest, highest = min(site.even_mass), max(site.even_mass)
    even = f"{lowest:.2f}" if f"{lowest:.2f}" == f"{highest:.2f}" else f"{lowest:.2f} to {highest:.2f}"
    axes.set_title(f"Attention to the whole prefix (even attention: {even})", fontsize=11)
    axes.set_xlabel("head")
    _colour_bar(axes, image, "share of attention")


def _draw_tokens(axes: Axes, site: SiteInspection, dead_below: float) -> None:
    highest = max(max(row) for row in site.token_mass)
    image = _heatmap(axes, site.token_mass, site.layers, Normalize(0.0, highest or 1.0), "magma")
    axes.set_title(
        f"Attention to each virtual token (dead: {len(site.dead)} of {site.prefix_length})", fontsize=11, pad=10
    )
    axes.set_xlabel("virtual token")
    if site.dead:
        axes.set_xlabel(f"virtual token (red mark: dead, below {dead_below:g} in every head)")
        above = axes.get_xaxis_transform()  # x counts tokens, y is the height of the axes
        axes.plot(site.dead, [1.02] * len(site.dead), "v", color=_DEAD_COLOUR, transform=above, clip_on=False)
    _colour_bar(axes, image, "share of attention, strongest head")


def _draw_norms(axes: Axes, site: SiteInspection, norms: Sequence[Sequence[float]], title: str, scale: LogNorm) -> None:
    # A norm of 0 has no logarithm; without a lower bound its cell would be as white as that of a norm of 1.
    image = _heatmap(axes, [[max(norm, 1e-9) for norm in row] for row in norms], site.layers, scale, "RdBu_r")
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("virtual token")
    _colour_bar(axes, image, "relative to the text's norm")
    bar = axes.images[0].colorbar
    assert bar is not None and scale.vmax is not None
    steps = [2.0**power for power in range(-6, 7) if 2.0 ** abs(power) <= scale.vmax * 1.001]
    bar.ax.yaxis.set_major_locator(FixedLocator(steps))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.ax.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}×" if value >= 1 else f"1/{1 / value:g}×")
    )


def _norm_scale(site: SiteInspection) -> LogNorm:
    """One logarithmic scale for keys and values, symmetric around 1 (white): the norm of the text's keys or values."""
    numbers = [number for norms in (site.key_norms, site.value_norms) for row in norms for number in row if number > 0]
    widest = max([2.0, *numbers, *(1 / number for number in numbers)])
    widest = min(widest, 64.0)
    return LogNorm(1 / widest, widest)


def _heatmap(
    axes: Axes, rows: Sequence[Sequence[float]], layers: Sequence[int], scale: Normalize, colours: str
) -> AxesImage:
    """A heatmap of layers (rows) and heads or tokens (columns); small heatmaps show the value in each cell."""
    image = axes.imshow(rows, norm=scale, cmap=colours, aspect="auto", interpolation="nearest")
    columns = len(rows[0])
    _ticks(axes, layers, columns)
    axes.set_ylabel("layer")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if columns * len(rows) <= _MAX_NUMBERED_CELLS and columns <= 20:
        for y, row in enumerate(rows):
            for x, number in enumerate(row):
                shade = image.cmap(scale(number))
                dark = 0.3 * shade[0] + 0.59 * shade[1] + 0.11 * shade[2] < 0.5
                axes.text(
                    x, y, f"{number:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
                )
    return image


def _ticks(axes: Axes, layers: Sequence[int], columns: int) -> None:
    for positions, labels, set_ticks in (
        (range(columns), range(columns), axes.set_xticks),
        (range(len(layers)), layers, axes.set_yticks),
    ):
        step = next(step for step in _TICK_STEPS if len(positions) <= step * _MAX_TICKS)
        set_ticks(list(positions)[::step], [str(label) for label in list(labels)[::step]])


def _colour_bar(axes: Axes, image: AxesImage, label: str) -> None:
    axes.figure.colorbar(image, ax=axes, label=label, pad=0.02)


def _truncate(text: str, max_length: int = 90) -> str:
    return text if len(text) <= max_length else f"{text[:max_length]}…"
