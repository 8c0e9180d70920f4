"""ROUGE-2 of summaries: pairs of words in common, with stemming, by rouge-score.

Lin, 2004. The package gives what ROUGE-1.5.5.pl gives with -m.
"""

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import library
from ptl_prefix.evaluation.rouge_score_metric import RougeScoreMetric


class Rouge2(RougeScoreMetric):
    """Pairs of words in common; the best of several references."""

    info = MetricInfo(scale="0-100", direction="maximize", version="1", library=library("rouge-score"))
    rouge_type = "rouge2"
