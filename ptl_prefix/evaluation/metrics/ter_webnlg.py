"""TER, translation edit rate, of the WebNLG challenge 2017: up to three references.

The challenge runs tercom 0.7.25 on text that is normalised as in `webnlg_text.py`; sacrebleu's TER reproduces tercom.
"""

from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import ter as sacrebleu_ter

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import library
from ptl_prefix.evaluation.sacrebleu_metric import SacreBleuMetric
from ptl_prefix.evaluation.webnlg_text import challenge_texts, is_latin


class ChallengeTER(SacreBleuMetric):
    """Edits per reference word, in percent."""

    info = MetricInfo(scale="percent", direction="minimize", version="1", library=library("sacrebleu"))

    def scorer(self) -> Any:
        """The TER of sacrebleu with its defaults."""
        return sacrebleu_ter.TER()

    def reads(self, letter: str) -> bool:
        """Whether the challenge's normalisation keeps a letter: those of the Latin script."""
        return is_latin(letter)

    def texts(self, prediction: Prediction) -> tuple[str, Sequence[str]]:
        """The normalised texts."""
        return challenge_texts(prediction)
