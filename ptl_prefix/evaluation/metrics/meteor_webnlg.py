"""METEOR of the WebNLG challenge 2017: up to three references. Needs Java.

METEOR 1.5 (Denkowski & Lavie, WMT 2014) on text that is normalised as in `webnlg_text.py`.
"""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.meteor_program import meteor_rows, meteor_score, unavailable_reason
from ptl_prefix.evaluation.metric import Metric, Statistics, library
from ptl_prefix.evaluation.webnlg_text import challenge_texts, is_latin


class ChallengeMETEOR(Metric):
    """METEOR of the whole set, in percent."""

    info = MetricInfo(
        scale="0-100", direction="maximize", version="1", library=f"METEOR 1.5, {library('pycocoevalcap')}"
    )

    @property
    def unavailable_reason(self) -> str | None:
        """The reason why METEOR cannot be computed: no Java, or no program."""
        return unavailable_reason()

    def reads(self, letter: str) -> bool:
        """Whether the challenge's normalisation keeps a letter: those of the Latin script."""
        return is_latin(letter)

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """The counts of the METEOR program.

        Raises:
            MetricFailedError: The program failed.
        """
        return meteor_rows(map(challenge_texts, predictions))

    def value(self, total: Statistics) -> float:
        """METEOR for summed counts."""
        return 100 * meteor_score(total)
