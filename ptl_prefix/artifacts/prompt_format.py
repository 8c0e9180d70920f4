"""The format of prompts: how a source becomes the text that a backbone continues.

In: nothing. Out: `PromptFormat`. A task defines it, encoding applies it, and a bundle stores it, so that prompts are
the same in training and serving. `backbones/prompting.py` turns it into ids.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """The parts of an example's ids: [before][source][between][target][after].

    `before`, `between` and `after` are text in which `{bos}` and `{eos}` stand for the tokenizer's special ids. An
    encoder-decoder encodes [before][source][between] and decodes [target][after]; there the special ids that its own
    tokenizer puts around a text replace those of `before` and `between`.

    Args:
        before: Text before the source.
        between: Text between the source and the target; the prompt ends with it.
        after: Text at the end of the target; its first id ends generation. It is trained on, like the target.
        max_source_tokens: Longest source in tokens; `None`: limited by the backbone's positions only.
        truncation: End at which an over-long source is cut, `right` or `left`; `none` refuses such a source.
    """

    before: str = ""
    between: str = " {bos}"
    after: str = "{eos}"
    max_source_tokens: Annotated[int, Ge(0), Le(2**31)] | None = None
    truncation: Literal["right", "left", "none"] = "right"
