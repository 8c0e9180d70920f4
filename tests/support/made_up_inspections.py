"""Creates inspections of any size from random numbers."""

import random
from collections.abc import Sequence
from typing import Any

from ptl_prefix.artifacts.inspection import Inspection, NearestWords, NearWord, SiteInspection


def made_up_site(
    *, layers: int = 3, heads: int = 4, tokens: int = 5, dead: Sequence[int] = (), words: bool = True
) -> SiteInspection:
    """A site whose dead tokens get a thousandth of the attention of others."""
    draw = random.Random(layers * heads * tokens)

    def table(columns: int, low: float, high: float) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(draw.uniform(low, high) for _ in range(columns)) for _ in range(layers))

    near = tuple(
        (NearWord(text=f" word{t}", token_id=t, cosine=0.5), NearWord(text="x", token_id=9, cosine=0.4))
        for t in range(tokens)
    )
    return SiteInspection(
        layers=tuple(range(layers)),
        num_queries=100,
        mass=table(heads, 0.0, 1.0),
        even_mass=tuple(0.25 for _ in range(layers)),
        token_mass=tuple(
            tuple(share / 1000 if token in dead else share for token, share in enumerate(row))
            for row in table(tokens, 0.05, 0.3)
        ),
        key_norms=table(tokens, 0.25, 4.0),
        value_norms=table(tokens, 0.25, 4.0),
        dead=tuple(dead),
        nearest=(
            (NearestWords(layer=1, by_key=near, by_value=near, chance_by_key=0.31, chance_by_value=0.12),)
            if words
            else ()
        ),
    )


def made_up(sites: dict[str, SiteInspection], **changes: Any) -> Inspection:
    """Create an inspection of some sites."""
    values = {
        "bundle": "run/bundle",
        "method": "prefix_tuning",
        "task": "some_task",
        "backbone": "some_backbone",
        "position_law": "shifted",
        "texts": "from the validation split of some_task",
        "num_texts": 3,
        "num_words": 100,
        "vocabulary_words": 200,
        "dead_below": 0.01,
        "definitions": {"mass": "what it is", "dead": "what that is"},
    }
    return Inspection(sites=sites, **{**values, **changes})
