import pytest
from support.made_up_predictions import prediction, random_predictions

from ptl_prefix.evaluation import scoring
from ptl_prefix.evaluation.metric import Metric, load_metric
from ptl_prefix.evaluation.metrics.exact_match import ExactMatch
from ptl_prefix.evaluation.scoring import score


def test_numbers_come_by_name_in_the_order_of_the_names_with_what_they_mean() -> None:
    scores = score([prediction("a", "a", values=("b",))], ["exact_match", "attribute_accuracy"])

    assert list(scores.values.items()) == [("exact_match", 1.0), ("attribute_accuracy", 0.0)]
    assert scores.infos["exact_match"] == ExactMatch.info
    assert scores.intervals == scores.skipped == {}


@pytest.mark.parametrize("name", ["bleu", "nist", "rouge_l", "cider", "exact_match", "attribute_accuracy"])
def test_a_groups_number_is_that_of_the_group_alone(name: str) -> None:
    some = random_predictions(40)

    values = score(some, [name]).values

    assert values.keys() == {name, f"{name}/seen", f"{name}/unseen"}
    assert values[name] == load_metric(name).score(some)
    for group in ("seen", "unseen"):
        alone = [one for one in some if one.group == group]
        assert values[f"{name}/{group}"] == pytest.approx(load_metric(name).score(alone), rel=1e-12)


def test_no_number_is_overwritten_whatever_groups_are_called() -> None:
    groups = ["webnlg", "low", "high", "before", "a/b", "\x1b[31m"]
    some = [prediction("a b", "a c" * (1 + number), group=group, id=group) for number, group in enumerate(groups)]

    scores = score(some, ["ter", "ter_webnlg"], resamples=5)

    assert len(scores.values) == 2 * (1 + len(groups))
    assert scores.intervals.keys() == scores.values.keys() == scores.infos.keys()
    assert scores.values["ter_webnlg"] == load_metric("ter_webnlg").score(some)
    assert scores.values["ter/webnlg"] == load_metric("ter").score(some[:1])


def test_what_has_no_group_is_in_the_whole_alone() -> None:
    some = [prediction("a", "a", group="seen"), prediction("b", "c", id="1")]

    assert score(some, ["exact_match"]).values == {"exact_match": 0.5, "exact_match/seen": 1.0}


def test_every_number_lies_in_its_interval_which_the_seed_decides() -> None:
    some = random_predictions(60)

    first = score(some, ["bleu", "nist"], resamples=200, seed=3)

    assert first.intervals.keys() == first.values.keys()
    for name, (low, high) in first.intervals.items():
        assert low < first.values[name] < high
    assert score(some, ["bleu", "nist"], resamples=200, seed=3) == first
    assert score(some, ["bleu"], resamples=200, seed=4).intervals["bleu"] != first.intervals["bleu"]


def test_what_cannot_be_computed_is_named_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    class OutOfReach(ExactMatch):
        unavailable_reason = "it needs a machine that is not here."

    def named(name: str) -> Metric:
        return OutOfReach() if name == "far" else load_metric(name)

    monkeypatch.setattr(scoring, "load_metric", named)

    scores = score([prediction("a", "a")], ["far", "attribute_accuracy", "exact_match"])

    assert scores.values == {"exact_match": 1.0}
    assert scores.unavailable == {"far": "it needs a machine that is not here."}
    assert scores.inapplicable.keys() == {"attribute_accuracy"}
    assert "needs `values`" in scores.inapplicable["attribute_accuracy"]
    assert scores.skipped == {**scores.unavailable, **scores.inapplicable}


def test_a_name_of_no_metric_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExactMatch, "values", lambda *args: pytest.fail("measured"))

    with pytest.raises(ValueError, match="but is 'blue'"):
        score([prediction("a", "a")], ["exact_match", "blue"])
