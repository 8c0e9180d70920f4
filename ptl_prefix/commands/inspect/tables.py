"""What a person sees when `inspect` ends: four tables, and what their numbers mean."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.inspection import Inspection, NearestWords, NearWord, SiteInspection

_MOST_TOKENS = 24
"""Virtual tokens shown in full; the file has all of them."""


def show_inspection(found: Inspection, console: Console) -> None:
    """Print the tables of every site, and the definitions beneath them."""
    words = "words" if found.num_words == found.vocabulary_words else f"of {found.vocabulary_words:,} words"
    facts = (
        f"{found.method} on {found.backbone}, {found.task}: {found.bundle}",
        f"texts: {found.num_texts} {found.texts}",
        f"vocabulary: {found.num_words:,} {words}",
    )
    for fact in facts:
        console.print(Text(fact), soft_wrap=True)
    for name, site in found.sites.items():
        console.print()
        console.print(_layers_table(name, site))
        console.print(_tokens_table(name, site, found.dead_below))
        for nearest in site.nearest:
            console.print(_words_table(name, site, nearest))
        if not site.nearest:
            console.print(f"{name}: no nearest words; no word is read there, or not in a layer with a prefix")
    console.print()
    for name, meaning in found.definitions.items():
        console.print(Text(f"{name}: ", style="bold").append(f"{meaning}.", style="dim"))


def _layers_table(name: str, site: SiteInspection) -> Table:
    table = _table(f"{name}: attention on the prefix, {site.num_queries:,} queries")
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
    count = f"{len(site.dead)} of {site.prefix_length} virtual tokens are dead (below {dead_below:g} everywhere)"
    table = _table(f"{name}: {count}{': ' if site.dead else ''}{', '.join(map(str, site.dead))}")
    for heading in ("token", "most attention", "in layer", "", "key norm", "value norm"):
        table.add_column(heading, justify="left" if not heading else "right")
    for token, (mass, layer) in enumerate(site.peaks[:_MOST_TOKENS]):
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
    for token in range(min(site.prefix_length, _MOST_TOKENS)):
        keys, values = nearest.by_key[token], nearest.by_value[token]
        table.add_row(f"{token}", _words(keys), f"{keys[0].cosine:.2f}", _words(values), f"{values[0].cosine:.2f}")
    return _with_rest(table, site)


def _words(words: Sequence[NearWord]) -> Text:
    """The space that most words begin with is part of them, and must be seen."""
    return Text("  ".join(word.text.replace(" ", "␣") for word in words))


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", caption_justify="left")


def _with_rest(table: Table, site: SiteInspection) -> Table:
    if site.prefix_length > _MOST_TOKENS:
        table.caption = f"the other {site.prefix_length - _MOST_TOKENS} virtual tokens are in the file"
    return table


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
