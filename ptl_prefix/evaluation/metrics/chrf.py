"""chrF: F-measure of character n-grams, with recall weighted twice as much (chrF2), by sacrebleu.

Popović, WMT 2015: n-grams of up to 6 characters without spaces; of several references, the best counts.
"""

from typing import Any

from sacrebleu.metrics import chrf as sacrebleu_chrf

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import library
from ptl_prefix.evaluation.sacrebleu_metric import SacreBleuMetric


class ChrF(SacreBleuMetric):
    """F-measure of character n-grams over the whole set, in percent."""

    info = MetricInfo(scale="0-100", direction="maximize", version="1", library=library("sacrebleu"))

    def scorer(self) -> Any:
        """The chrF of sacrebleu with its defaults."""
        return sacrebleu_chrf.CHRF()
