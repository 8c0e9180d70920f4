"""ROUGE-L of summaries: F-measure of the longest common subsequence, with stemming, by rouge-score.

Lin, 2004. The package gives the values of ROUGE-1.5.5.pl with -m.
"""

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import library
from ptl_prefix.evaluation.rouge_score_metric import RougeScoreMetric


class RougeScoreL(RougeScoreMetric):
    """F-measure of the longest common subsequence with the best reference; `rouge_l` is that of the E2E challenge."""

    info = MetricInfo(scale="0-100", direction="maximize", version="1", library=library("rouge-score"))
    rouge_type = "rougeL"
