import pytest
from support.made_up_predictions import prediction

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation.metrics.exact_match import ExactMatch


@pytest.mark.parametrize(
    ("predictions", "share"),
    [
        ([prediction("a b", "a b")], 1.0),
        ([prediction("  a \n b", "a b")], 1.0),
        ([prediction("b", "a", "b")], 1.0),
        ([prediction("A b", "a b")], 0.0),
        ([prediction("a b c", "a b")], 0.0),
        ([prediction("", "a")], 0.0),
        ([prediction("a", "a"), prediction("a", "b"), prediction("b", "b"), prediction("", "b")], 0.5),
    ],
)
def test_it_is_the_share_that_equals_a_reference_white_space_apart(predictions: list[Prediction], share: float) -> None:
    assert ExactMatch().score(predictions) == share
