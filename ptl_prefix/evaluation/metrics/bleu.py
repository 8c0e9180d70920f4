"""BLEU of the E2E challenge: corpus BLEU on lower-cased mteval-v13a tokens, with all references.

Papineni et al., ACL 2002. The published scores are those of mteval-v13a.pl, which sacrebleu's tokenizer and smoothing
follow. The brevity penalty uses the closest reference length, and the shorter of two equally close ones.
"""

from typing import Any

from sacrebleu.metrics import bleu as sacrebleu_bleu

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import library
from ptl_prefix.evaluation.sacrebleu_metric import SacreBleuMetric


class BLEU(SacreBleuMetric):
    """Precision of n-grams of up to 4 words with a brevity penalty, in percent."""

    info = MetricInfo(scale="0-100", direction="maximize", version="1", library=library("sacrebleu"))

    def scorer(self) -> Any:
        """The BLEU of sacrebleu without its warning about tokenised text, which some systems of the challenge wrote."""
        return sacrebleu_bleu.BLEU(lowercase=True, tokenize="13a", smooth_method="exp", force=True)
