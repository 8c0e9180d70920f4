"""ROUGE-L of summaries: the longest common subsequence, with stemming, by rouge-score.

Lin, 2004. The package gives what ROUGE-1.5.5.pl gives with -m.
"""

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import library
from ptl_prefix.evaluation.rouge_score_metric import RougeScoreMetric


class RougeScoreL(RougeScoreMetric):
    """The longest common subsequence; the best of several references. Not the `rouge_l` of image captions and E2E."""

    info = MetricInfo(scale="0-100", direction="maximize", version="1", library=library("rouge-score"))
    rouge_type = "rougeL"
