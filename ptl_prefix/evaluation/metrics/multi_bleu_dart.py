"""BLEU of DART: multi-bleu.perl with up to three references, on words that are separated by white space.

As in DART's `run_eval_on_dart.sh`: no smoothing, no cutting at signs that the texts' own tokenizer left, and case
counts; `dart_text.py` describes the form of the texts. Its files of second and third references have an empty line
where there is no such reference, which multi-bleu counts as an empty one; see `multi_bleu.py`.
"""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.dart_text import dart_texts
from ptl_prefix.evaluation.metrics.multi_bleu import MultiBLEU


class DartBLEU(MultiBLEU):
    """Precision of n-grams of up to 4 words with a brevity penalty, in percent."""

    def reads(self, letter: str) -> bool:
        """Every script: unlike in WebNLG's scripts, letters are not converted."""
        return True

    def texts(self, prediction: Prediction) -> tuple[str, Sequence[str]]:
        """The texts, with empty references up to the third."""
        hypothesis, references = dart_texts(prediction)
        return hypothesis, (*references, "", "")[:3]
