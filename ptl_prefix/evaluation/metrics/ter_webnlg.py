"""TER as the WebNLG challenge of 2017 has it: up to three references, text in lower case and cut at every sign.

The challenge asks tercom 0.7.25, with the text of `webnlg_text.py`; sacrebleu's TER is made to equal it.
"""

from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import ter as sacrebleu_ter

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import library
from ptl_prefix.evaluation.sacrebleu_metric import SacreBleuMetric
from ptl_prefix.evaluation.webnlg_text import challenge_texts


class ChallengeTER(SacreBleuMetric):
    """Edits per word of the references; in percent."""

    info = MetricInfo(scale="percent", direction="minimize", version="1", library=library("sacrebleu"))

    def scorer(self) -> Any:
        """sacrebleu's, with its defaults."""
        return sacrebleu_ter.TER()

    def texts(self, prediction: Prediction) -> tuple[str, Sequence[str]]:
        """As the challenge compares them."""
        return challenge_texts(prediction)
