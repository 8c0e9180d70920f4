"""Text normalisation of the WebNLG challenge 2017.

In: a prediction. Out: its texts in lower case and ASCII, split at every character that is neither a letter nor a digit,
and at most three references. As in the challenge's scripts, a hypothesis is converted to ASCII before it is split, and
a reference after.
"""

import re
import unicodedata

from text_unidecode import unidecode

from ptl_prefix.artifacts.predictions import Prediction

_NUM_REFERENCES = 3


def challenge_texts(prediction: Prediction) -> tuple[str, tuple[str, ...]]:
    """The normalised hypothesis and references."""
    hypothesis = _split(unidecode(prediction.hypothesis.lower()))
    references = (unidecode(_split(text).lower()) for text in prediction.references[:_NUM_REFERENCES])
    return hypothesis, tuple(references)


def is_latin(letter: str) -> bool:
    """Whether the challenge's scripts read a letter or digit as itself: other scripts become other texts in ASCII.

    A hypothesis is converted before it is split, and a reference after, so that even equal texts then differ.
    """
    return letter.isascii() or unicodedata.name(letter, "").startswith("LATIN ")


def _split(text: str) -> str:
    return " ".join(" ".join(re.split(r"(\W)", text)).split())
