import pytest
from support.made_up_predictions import prediction

from ptl_prefix.evaluation.labels import label_pairs
from ptl_prefix.evaluation.metric import MetricNotApplicableError


def test_the_label_that_is_due_comes_with_the_one_that_was_written_white_space_apart() -> None:
    assert label_pairs("accuracy", [prediction(" lost \n card ", "lost card")]) == [("lost card", "lost card")]


def test_where_two_labels_would_be_due_there_is_none() -> None:
    with pytest.raises(MetricNotApplicableError, match=r"macro_f1 needs one reference, the label, .* but 'x' has 2"):
        label_pairs("macro_f1", [prediction("a", "a"), prediction("a", "a", "b", id="x")])
