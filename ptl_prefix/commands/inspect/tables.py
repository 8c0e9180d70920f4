"""Prints an inspection: tables for each attention site, and the definitions of their values."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.inspection import Inspection, NearestWords, NearWord, SiteInspection
from ptl_prefix.artifacts.visible_text import escape_controls

_MAX_TOKENS = 24
"""Number of virtual tokens that tables show; the file contains all of them."""


def show_inspection(inspection: Inspection, console: Console) -> None:
    """Print the tables of every site, then the definitions."""
    words = (
        "words" if inspection.num_words == inspection.vocabulary_words else f"of {inspection.vocabulary_words:,} words"
    )
    lines = (
        f"{inspection.method} on {inspection.backbone}, {inspection.task}: {inspection.bundle}",
        f"texts: {inspection.num_texts} {inspection.texts}",
        f"vocabulary: {inspection.num_words:,} {words}",
    )
    for line in lines:
        console.print(Text(escape_controls(line)), soft_wrap=True)
    for name, site in inspection.sites.items():
        console.print()
        console.print(_layers_table(name, site))
        console.print(_tokens_table(name, site, inspection.dead_below))
        for nearest in site.nearest:
            console.print(_words_table(name, site, nearest))
        if not site.nearest:
            console.print(
                f"{name}: no nearest words, because this site reads no words, or has no prefix in the chosen layer"
            )
    console.print()
    for name, meaning in inspection.definitions.items():
        console.print(Text(f"{name}: ", style="bold").append(f"{meaning}.", style="dim"))


def _layers_table(name: str, site: SiteInspection) -> Table:
    table = _table(f"{name}: attention to the prefix, {site.num_queries:,} queries")
    for heading in ("layer", "mean", "even", "by head", "key norm", "value norm"):
        table.add_column(heading, justify="left" if heading == "by head" else "right")
    rows = zip(site.layers, site.mass, site.even_mass, site.key_norms, site.value_norms, strict=True)
    for layer, heads, even, keys, values in rows:
        by_head = " ".join(f"{mass:.2f}" for mass in heads)
        table.add_row(
            f"{layer}", f"{_mean(heads):.2f}", f"{even:.2f}", by_head, f"{_mean(keys):.2f}×", f"{_mean(values):.2f}×"
        )
    return table


def _tokens_table(name: str, site: SiteInspection, dead_below: float) -> Table:
    count = f"{len(site.dead)} of {site.prefix_length} virtual tokens are dead (below {dead_below:g} in every head)"
    table = _table(f"{name}: {count}{': ' if site.dead else ''}{', '.join(map(str, site.dead))}")
    for heading in ("token", "most attention", "in layer", "", "key norm", "value norm"):
        table.add_column(heading, justify="left" if not heading else "right")
    for token, (mass, layer) in enumerate(site.peaks[:_MAX_TOKENS]):
        keys, values = ([row[token] for row in norms] for norms in (site.key_norms, site.value_norms))
        dead = Text("dead", style="red") if token in site.dead else Text()
        table.add_row(f"{token}", f"{mass:.4f}", f"{layer}", dead, f"{_mean(keys):.2f}×", f"{_mean(values):.2f}×")
    return _with_rest(table, site)


def _words_table(name: str, site: SiteInspection, nearest: NearestWords) -> Table:
    table = _table(f"{name}: nearest words in layer {nearest.layer}, best first, with the best one's cosine")
    table.add_column("token", justify="right")
    for kind, chance in (("key", nearest.chance_by_key), ("value", nearest.chance_by_value)):
        table.add_column(f"by {kind}")
        table.add_column(f"chance {chance:.2f}", justify="right")
    for token in range(min(site.prefix_length, _MAX_TOKENS)):
        keys, values = nearest.by_key[token], nearest.by_value[token]
        table.add_row(f"{token}", _words(keys), f"{keys[0].cosine:.2f}", _words(values), f"{values[0].cosine:.2f}")
    return _with_rest(table, site)


def _words(words: Sequence[NearWord]) -> Text:
    """Join words; most begin with a space, which is shown as a visible character."""
    return Text("  ".join(escape_controls(word.text).replace(" ", "␣") for word in words))


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", caption_justify="left")


def _with_rest(table: Table, site: SiteInspection) -> Table:
    if site.prefix_length > _MAX_TOKENS:
        table.caption = f"{site.prefix_length - _MAX_TOKENS} more virtual tokens are in the file"
    return table


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
