"""The share of outputs that equal one of their references, white space apart."""

from collections.abc import Sequence

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import Metric, Scored


class ExactMatch(Metric):
    """Accuracy of whole outputs. A task whose references are not all there is to say will score low."""

    info = MetricInfo(scale="0-1", direction="maximize", version="1", library="ptl_prefix")

    def score(self, outputs: Sequence[Scored]) -> float:
        """Outputs equal to one of their references, over all outputs."""
        return sum(_matches(output) for output in outputs) / len(outputs)


def _matches(output: Scored) -> bool:
    return _plain(output.hypothesis) in {_plain(reference) for reference in output.references}


def _plain(text: str) -> str:
    return " ".join(text.split())
