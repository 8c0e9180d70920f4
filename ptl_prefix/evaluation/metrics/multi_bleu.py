"""BLEU of the WebNLG challenge 2017: multi-bleu.perl, up to three references.

`multi-bleu.perl -lc` splits at spaces and does not smooth; `webnlg_text.py` normalises the text as the challenge's
scripts do. For an input with fewer than three references those scripts add empty ones, so that a hypothesis less than
half as long as its references has the closest length 0 and no brevity penalty. This is kept.
"""

from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import bleu as sacrebleu_bleu

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import library
from ptl_prefix.evaluation.sacrebleu_metric import SacreBleuMetric
from ptl_prefix.evaluation.webnlg_text import challenge_texts, is_latin


class MultiBLEU(SacreBleuMetric):
    """Precision of n-grams of up to 4 words with a brevity penalty, in percent."""

    info = MetricInfo(scale="0-100", direction="maximize", version="1", library=library("sacrebleu"))

    def scorer(self) -> Any:
        """The BLEU of sacrebleu with the script's tokenisation and smoothing: none."""
        return sacrebleu_bleu.BLEU(tokenize="none", smooth_method="none", force=True)

    def reads(self, letter: str) -> bool:
        """Whether the challenge's normalisation keeps a letter: those of the Latin script."""
        return is_latin(letter)

    def texts(self, prediction: Prediction) -> tuple[str, Sequence[str]]:
        """The normalised texts, with empty references up to the third."""
        hypothesis, references = challenge_texts(prediction)
        return hypothesis, (*references, "", "")[:3]
