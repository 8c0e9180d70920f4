"""The share of an input's values that its output mentions word for word, for tasks that say what those are."""

from collections.abc import Sequence

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.evaluation.metric import Metric, Scored


class AttributeAccuracy(Metric):
    """Recall of attribute values. It does not see what an output adds; `exact_match` does."""

    info = MetricInfo(scale="0-1", direction="maximize", version="1", library="ptl_prefix")

    def score(self, outputs: Sequence[Scored]) -> float:
        """Values mentioned, over all values of all outputs.

        Raises:
            ValueError: When no output has a value to look for.
        """
        wanted = sum(len(output.values) for output in outputs)
        if not wanted:
            raise ValueError(
                "`attribute_accuracy` needs a task that names each example's values, but this one names none."
            )
        return sum(value in output.hypothesis for output in outputs for value in output.values) / wanted
