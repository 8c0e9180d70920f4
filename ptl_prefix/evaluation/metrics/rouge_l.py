"""ROUGE-L of the E2E challenge, as in COCO's caption evaluation; it differs from rouge-score's `rougeL`.

Lin, 2004: the longest common subsequence of lower-cased Penn Treebank tokens without punctuation. COCO's code takes the
best precision and the best recall over the references, each by itself, and weights recall with beta = 1.2.
"""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import MeanMetric
from ptl_prefix.evaluation.ptb_tokens import caption_words

_BETA_SQUARED = 1.2**2


class RougeL(MeanMetric):
    """Mean F-measure of longest common subsequences, in percent."""

    info = MetricInfo(scale="0-100", direction="maximize", version="1", library="ptl_prefix")
    scale = 100.0

    def values(self, predictions: Sequence[Prediction]) -> list[float]:
        """The F-measure of each prediction."""
        return [_f_measure(prediction) for prediction in predictions]


def _f_measure(prediction: Prediction) -> float:
    # An empty text has one empty word, as COCO's code splits it.
    hypothesis = caption_words(prediction.hypothesis) or [""]
    references = [caption_words(reference) or [""] for reference in prediction.references]
    common = [longest_common_subsequence(hypothesis, reference) for reference in references]
    precision = max(common) / len(hypothesis)
    recall = max(length / len(reference) for length, reference in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


def longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence of two texts, in words."""
    above = [0] * (len(right) + 1)
    for word in left:
        row = [0]
        for column, other in enumerate(right):
            row.append(above[column] + 1 if word == other else max(above[column + 1], row[column]))
        above = row
    return above[-1]
