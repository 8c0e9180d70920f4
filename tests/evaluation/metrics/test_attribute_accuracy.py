import pytest
from support.made_up_predictions import prediction

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.metric import MetricNotApplicableError
from ptl_prefix.evaluation.metrics.attribute_accuracy import AttributeAccuracy


@pytest.mark.parametrize(
    ("predictions", "share"),
    [
        ([prediction("The Eagle in Rome", "r", values=("The Eagle", "Rome"))], 1.0),
        ([prediction("The eagle in Rome", "r", values=("The Eagle", "Rome"))], 0.5),
        ([prediction("x", "r", values=("y",)), prediction("a b c", "r", values=("a", "b", "c"))], 0.75),
        ([prediction("x", "r"), prediction("a", "r", values=("a",))], 1.0),
    ],
)
def test_it_is_the_share_of_all_values_that_are_mentioned(predictions: list[Prediction], share: float) -> None:
    assert AttributeAccuracy().score(predictions) == share


def test_predictions_without_values_are_refused() -> None:
    with pytest.raises(MetricNotApplicableError, match=r"needs `values`.*no prediction has"):
        AttributeAccuracy().score([prediction("a", "a")])
