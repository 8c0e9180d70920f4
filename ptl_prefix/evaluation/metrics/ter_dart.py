"""TER, translation edit rate, of DART: edits per word of the first reference.

DART's `prepare_files.py` gives tercom 0.7.25 the first references alone; sacrebleu's TER reproduces tercom. The form of
the texts is that of `dart_text.py`.
"""

from collections.abc import Sequence

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.dart_text import dart_texts
from ptl_prefix.evaluation.metrics.ter import TER


class DartTER(TER):
    """Edits per reference word, in percent; case is ignored."""

    def texts(self, prediction: Prediction) -> tuple[str, Sequence[str]]:
        """The hypothesis and the first reference."""
        hypothesis, references = dart_texts(prediction)
        return hypothesis, references[:1]
