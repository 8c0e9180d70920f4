"""TER: the edits that turn an output into a reference, per word of it; sacrebleu's, without tokenisation.

Snover et al., AMTA 2006: insertions, deletions, substitutions and shifts; of several references the one with the fewest
edits, over the references' average length. Lower is better, and more than 100 is possible.
"""

from typing import Any

from sacrebleu.metrics import ter as sacrebleu_ter

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import library
from ptl_prefix.evaluation.sacrebleu_metric import SacreBleuMetric


class TER(SacreBleuMetric):
    """Edits per word of the references; in percent. Case does not count."""

    info = MetricInfo(scale="percent", direction="minimize", version="1", library=library("sacrebleu"))

    def scorer(self) -> Any:
        """sacrebleu's, with its defaults."""
        return sacrebleu_ter.TER()
