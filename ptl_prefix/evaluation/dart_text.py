"""Texts as DART's evaluation scripts compare them.

In: a prediction. Out: its texts, whose words are separated by white space. DART's reference files and the released
outputs of systems are lower-cased and cut at every sign (`robert e . lee`); its scripts only split them at white
space, and change nothing else. So texts in that form are left as they are, and texts that are not, such as those of
the JSON files, are brought into it: hypothesis and references together.
"""

import re

from ptl_prefix.artifacts.predictions import Prediction

_NUM_REFERENCES = 3


def dart_texts(prediction: Prediction) -> tuple[str, tuple[str, ...]]:
    """The hypothesis, and at most three references."""
    references = tuple(" ".join(text.split()) for text in prediction.references[:_NUM_REFERENCES])
    released = tuple(map(_as_released, references))
    if released == references:
        return " ".join(prediction.hypothesis.split()), references
    return _as_released(prediction.hypothesis), released


def _as_released(text: str) -> str:
    return " ".join(" ".join(re.split(r"(\W)", text.lower())).split())
