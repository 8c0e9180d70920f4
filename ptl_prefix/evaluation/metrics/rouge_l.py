"""ROUGE-L as the E2E challenge has it, in COCO's caption evaluation: not rouge-score's `rougeL`.

Lin, 2004: the longest common subsequence, of words in lower case without punctuation (Penn Treebank tokens). COCO's way
takes the best precision and the best recall over references, each by itself, and weights recall with beta = 1.2.
"""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import MeanMetric
from ptl_prefix.evaluation.ptb_tokens import caption_words

_BETA_SQUARED = 1.2**2


class RougeL(MeanMetric):
    """The mean F-measure of longest common subsequences; in percent."""

    info = MetricInfo(scale="0-100", direction="maximize", version="1", library="ptl_prefix")
    scale = 100.0

    def values(self, predictions: Sequence[Prediction]) -> list[float]:
        """Each prediction's F-measure."""
        return [_f_measure(prediction) for prediction in predictions]


def _f_measure(prediction: Prediction) -> float:
    # COCO's code splits an empty text into one empty word.
    hypothesis = caption_words(prediction.hypothesis) or [""]
    references = [caption_words(reference) or [""] for reference in prediction.references]
    common = [longest_common_subsequence(hypothesis, reference) for reference in references]
    precision = max(common) / len(hypothesis)
    recall = max(length / len(reference) for length, reference in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


def longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """How many words two texts have in the same order."""
    above = [0] * (len(right) + 1)
    for word in left:
        row = [0]
        for place, other in enumerate(right):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[place]))
        above = row
    return above[-1]
