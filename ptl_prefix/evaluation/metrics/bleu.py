"""BLEU as the E2E challenge has it: mteval-v13a's tokens in lower case, all references.

Papineni et al., ACL 2002. The published scores are those of mteval-v13a.pl, from which sacrebleu's tokeniser and
smoothing are: over the whole set, the length of the closest reference, of two equally close the shorter.
"""

from typing import Any

from sacrebleu.metrics import bleu as sacrebleu_bleu

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import library
from ptl_prefix.evaluation.sacrebleu_metric import SacreBleuMetric


class BLEU(SacreBleuMetric):
    """Matching n-grams of up to 4 words, and a penalty for being short; in percent."""

    info = MetricInfo(scale="0-100", direction="maximize", version="1", library=library("sacrebleu"))

    def scorer(self) -> Any:
        """sacrebleu's, without its remark about text that looks tokenised: systems of the challenge wrote such."""
        return sacrebleu_bleu.BLEU(lowercase=True, tokenize="13a", smooth_method="exp", force=True)
