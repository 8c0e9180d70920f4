"""METEOR of the E2E challenge: alignment by words, stems, synonyms and paraphrases. Needs Java.

METEOR 1.5 (Denkowski & Lavie, WMT 2014) as in COCO's caption evaluation: all references, Penn Treebank tokens without
punctuation.
"""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.meteor_program import meteor_rows, meteor_score, unavailable_reason
from ptl_prefix.evaluation.metric import Metric, Statistics, library
from ptl_prefix.evaluation.ptb_tokens import caption_words


class METEOR(Metric):
    """METEOR of the whole set, in percent."""

    info = MetricInfo(
        scale="0-100", direction="maximize", version="1", library=f"METEOR 1.5, {library('pycocoevalcap')}"
    )

    @property
    def unavailable_reason(self) -> str | None:
        """The reason why METEOR cannot be computed: no Java, or no program."""
        return unavailable_reason()

    def statistics(self, predictions: Sequence[Prediction]) -> Statistics:
        """The counts of the METEOR program.

        Raises:
            MetricFailedError: The program failed.
        """
        return meteor_rows((_caption(one.hypothesis), map(_caption, one.references)) for one in predictions)

    def value(self, total: Statistics) -> float:
        """METEOR for summed counts."""
        return 100 * meteor_score(total)


def _caption(text: str) -> str:
    return " ".join(caption_words(text))
