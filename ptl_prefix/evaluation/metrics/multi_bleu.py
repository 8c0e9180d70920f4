"""BLEU as the WebNLG challenge of 2017 has it, and DART: multi-bleu.perl, up to three references.

`multi-bleu.perl -lc` cuts at spaces alone and smooths nothing; the challenge's scripts prepare the text, see
`webnlg_text.py`. Where an input has less than three references they put an empty one, so that for a hypothesis less
than half as long as its references the closest length is 0, and it is not penalised. That is kept.
"""

from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import bleu as sacrebleu_bleu

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import library
from ptl_prefix.evaluation.sacrebleu_metric import SacreBleuMetric
from ptl_prefix.evaluation.webnlg_text import challenge_texts


class MultiBLEU(SacreBleuMetric):
    """Matching n-grams of up to 4 words, and a penalty for being short; in percent."""

    info = MetricInfo(scale="0-100", direction="maximize", version="1", library=library("sacrebleu"))

    def scorer(self) -> Any:
        """sacrebleu's, told to do what the script does."""
        return sacrebleu_bleu.BLEU(tokenize="none", smooth_method="none", force=True)

    def texts(self, prediction: Prediction) -> tuple[str, Sequence[str]]:
        """As the challenge compares them, with empty references up to the third."""
        hypothesis, references = challenge_texts(prediction)
        return hypothesis, (*references, "", "")[:3]
