import pytest
from support.made_up_predictions import prediction, random_labels

from ptl_prefix.evaluation.bootstrap import bootstrap_interval
from ptl_prefix.evaluation.metrics.macro_f1 import MacroF1


def test_it_is_the_mean_f_measure_of_the_labels_that_are_due() -> None:
    some = random_labels(50)
    by_hand = []
    for label in {one.references[0] for one in some}:
        due = {one.id for one in some if one.references[0] == label}
        given = {one.id for one in some if one.hypothesis == label}
        precision, recall = len(due & given) / len(given), len(due & given) / len(due)
        by_hand.append(2 * precision * recall / (precision + recall))

    assert MacroF1().score(some) == pytest.approx(sum(by_hand) / len(by_hand))


def test_a_rare_label_counts_as_much_as_a_common_one() -> None:
    labels = [("a", "a")] * 9 + [("x", "b")]

    assert MacroF1().score([prediction(given, due) for given, due in labels]) == 0.5


def test_a_resample_without_a_label_is_measured_by_the_others() -> None:
    rows = MacroF1().statistics([prediction("a", "a"), prediction("b", "b")])

    assert bootstrap_interval(rows, MacroF1().value, resamples=50, seed=0) == (1.0, 1.0)
