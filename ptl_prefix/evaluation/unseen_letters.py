"""Whether a metric reads the script that the references are written in.

In: a metric and predictions. Out: nothing, or `UnseenLettersError`. A tokenizer that keeps the letters a to z only
leaves nothing of a Chinese text, and a perfect output scores 0: such a number is worse than none.
"""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.metric import Metric, UnseenLettersError

_LEAST_SHARE = 0.5
"""Share of the references' letters and digits that a metric must read."""


def require_seen_letters(name: str, metric: Metric, predictions: Sequence[Prediction]) -> None:
    """Check that a metric reads something of each reference, and most of all references together.

    Args:
        name: Name of the metric.
        metric: Metric.
        predictions: Predictions that it is to score.

    Raises:
        UnseenLettersError: It does not.
    """
    if type(metric).reads is Metric.reads:
        return
    num_letters = num_read = 0
    unread = ""
    for text in (text for prediction in predictions for text in prediction.references):
        letters = [character for character in text if character.isalnum()]
        read = len(letters) if text.isascii() else sum(map(metric.reads, letters))
        num_letters, num_read = num_letters + len(letters), num_read + read
        unread = unread or (text if letters and not read else "")
    if unread or num_read < _LEAST_SHARE * num_letters:
        found = f"none of the reference {unread!r:.60}" if unread else f"only {num_read} of their {num_letters:,}"
        raise UnseenLettersError(
            f"{name} must be able to read the letters of the references, but reads {found}; use bleu or chrf, which "
            "read every script."
        )
