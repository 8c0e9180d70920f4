"""Text as the WebNLG challenge of 2017 compares it, and with it DART.

In: a prediction. Out: its texts in lower case and ASCII, cut at every sign that is no letter and no digit, and the
first three references only. The challenge's scripts make a hypothesis ASCII before they cut it, and a reference
after; so does this file.
"""

import re

from text_unidecode import unidecode

from ptl_prefix.artifacts.predictions import Prediction

_NUM_REFERENCES = 3


def challenge_texts(prediction: Prediction) -> tuple[str, tuple[str, ...]]:
    """The hypothesis and the references that the challenge compares."""
    hypothesis = _cut(unidecode(prediction.hypothesis.lower()))
    references = (unidecode(_cut(text).lower()) for text in prediction.references[:_NUM_REFERENCES])
    return hypothesis, tuple(references)


def _cut(text: str) -> str:
    return " ".join(" ".join(re.split(r"(\W)", text)).split())
