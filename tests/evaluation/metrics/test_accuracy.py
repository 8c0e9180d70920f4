from support.made_up_predictions import prediction

from ptl_prefix.evaluation.metrics.accuracy import Accuracy


def test_it_is_the_share_of_labels_that_are_right() -> None:
    labels = [("a", "a"), (" b ", "b"), ("a", "b"), ("A", "a"), ("", "a")]

    assert Accuracy().score([prediction(given, due) for given, due in labels]) == 0.4
