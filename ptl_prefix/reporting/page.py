"""A comparison as a self-contained HTML page: no network, no server, no other file.

In: a `Comparison`, and the command that reproduces each row. Out: HTML with its styles, its plots and the library that
draws them. Text from models and users is escaped, and its control characters are shown as escapes. The page's
Content-Security-Policy allows only the page's own two scripts and no network request.
"""

import base64
import gzip
import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.reporting.comparison import Comparison
from ptl_prefix.reporting.example_outputs import example_outputs
from ptl_prefix.reporting.figures import build_figures
from ptl_prefix.reporting.grids import BEST_IS_BOLD, LEGEND, MARKS, cost_grid, difference_grid, quality_grid
from ptl_prefix.reporting.table import Table
from ptl_prefix.reporting.text_tables import Commands, bare_sentence

_PARTS = Path(__file__).parent / "page_parts"
_NUM_COLOURS = 10


def render_page(comparison: Comparison, commands: Commands, *, num_examples: int) -> str:
    """Render a comparison as HTML.

    Args:
        comparison: Comparison to show.
        commands: Command that reproduces each row.
        num_examples: Number of test inputs whose outputs are shown side by side.
    """
    environment = Environment(
        loader=FileSystemLoader(_PARTS),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    library, script = get_plotlyjs(), (_PARTS / "page.js").read_text(encoding="utf-8")
    sections = [_section(table, commands, num_examples) for table in comparison.tables]
    plots = list(itertools.chain.from_iterable(section["figures"] for section in sections))
    return environment.get_template("page.html.jinja").render(
        sections=sections,
        excluded=comparison.excluded,
        legend=LEGEND,
        best_is_bold=BEST_IS_BOLD,
        marks=MARKS,
        num_colours=_NUM_COLOURS,
        policy=f"default-src 'none'; script-src {_hash(library)} {_hash(script)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'",
        style=Markup((_PARTS / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        library=_compress(library),
        figures=_json([figure.variants for figure in plots]),
    )


def _section(table: Table, commands: Commands, num_examples: int) -> dict[str, Any]:
    return {
        "table": table,
        "quality": quality_grid(table),
        "differences": difference_grid(table),
        "cost": cost_grid(table),
        "bare": bare_sentence(table),
        "figures": build_figures(table),
        "examples": example_outputs(table, num_examples),
        "commands": {row.number: commands[table.task, table.backbone, row.number] for row in table.rows},
    }


def _visible(value: Any) -> Any:
    """What a template inserts: texts without control characters, and the page's own parts as they are."""
    if isinstance(value, Markup) or not isinstance(value, str | Path):
        return value
    return escape_controls(str(value))


def _all_visible(values: Any) -> Any:
    """JSON values whose texts hold no control characters; the page finds a plot by the name that it shows."""
    if isinstance(values, Mapping):
        return {_visible(key): _all_visible(value) for key, value in values.items()}
    return [_all_visible(value) for value in values] if isinstance(values, list) else _visible(values)


def _hash(script: str) -> str:
    """The Content-Security-Policy source of an allowed script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _compress(library: str) -> str:
    """Gzip the library to a third of its size; `mtime=0` makes the text reproducible."""
    return base64.b64encode(gzip.compress(library.encode(), mtime=0)).decode()


def _json(values: Any) -> Markup:
    """JSON for a script element; `<`, `>` and `&` are escaped, so that no value can close the element."""
    text = json.dumps(_all_visible(values), allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
