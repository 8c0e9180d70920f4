"""TER, translation edit rate: edits that turn an output into a reference, per reference word, by sacrebleu.

Snover et al., AMTA 2006: insertions, deletions, substitutions and shifts, without tokenisation; of several references
the one with the fewest edits counts, divided by their average length. Lower is better; more than 100 is possible.
"""

from typing import Any

from sacrebleu.metrics import ter as sacrebleu_ter

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import library
from ptl_prefix.evaluation.sacrebleu_metric import SacreBleuMetric


class TER(SacreBleuMetric):
    """Edits per reference word, in percent; case is ignored."""

    info = MetricInfo(scale="percent", direction="minimize", version="1", library=library("sacrebleu"))

    def scorer(self) -> Any:
        """The TER of sacrebleu with its defaults."""
        return sacrebleu_ter.TER()
