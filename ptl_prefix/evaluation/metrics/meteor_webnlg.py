"""METEOR as the WebNLG challenge of 2017 has it, and DART: up to three references, text cut at every sign.

Version 1.5, with the text of `webnlg_text.py`. It needs Java.
"""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.meteor_program import meteor_rows, meteor_score, unavailable_reason
from ptl_prefix.evaluation.metric import Metric, Statistics, library
from ptl_prefix.evaluation.webnlg_text import challenge_texts


class ChallengeMETEOR(Metric):
    """The program's score of the whole set; in percent."""

    info = MetricInfo(
        scale="0-100", direction="maximize", version="1", library=f"METEOR 1.5, {library('pycocoevalcap')}"
    )

    @property
    def unavailable_reason(self) -> str | None:
        """Java, or the program."""
        return unavailable_reason()

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """The program's counts.

        Raises:
            MetricFailedError: The program failed.
        """
        return meteor_rows(map(challenge_texts, predictions))

    def value(self, total: Statistics) -> float:
        """The score of summed counts."""
        return 100 * meteor_score(total)
