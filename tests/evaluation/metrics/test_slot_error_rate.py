from pathlib import Path

import pytest
from support.e2e_challenge import predictions_of
from support.made_up_predictions import prediction

from ptl_prefix.evaluation.metric import MetricNotApplicableError
from ptl_prefix.evaluation.metrics.slot_error_rate import SlotErrorRate

SOURCE = "name : The Mill | Type : pub | food : French | area : riverside"


def test_it_is_the_errors_over_the_values_and_says_which() -> None:
    metric = SlotErrorRate()

    total = metric.statistics(
        [
            prediction("The Mill is a French pub by the river.", "r", source=SOURCE),
            prediction("The Mill is a French and Indian pub, a real pub.", "r", source=SOURCE),
        ]
    ).sum(axis=0)

    assert metric.value(total) == pytest.approx(100 * 3 / 8)
    assert metric.parts(total) == {"missing": 1, "added": 1, "repeated": 1}


def test_another_source_is_refused_by_its_id() -> None:
    with pytest.raises(MetricNotApplicableError, match=r"slot_error_rate needs inputs of E2E, .* 'x' is 'An article"):
        SlotErrorRate().score([prediction("a", "a", source="An article.", id="x")])


@pytest.mark.parametrize("system", ["tuda", "forge1"])
def test_systems_whose_rules_were_written_by_hand_make_no_error(system: str, data_folder: Path) -> None:
    assert SlotErrorRate().score(predictions_of(system, data_folder / "data/e2e")) == 0.0


def test_a_system_that_leaves_much_out_is_found_out(data_folder: Path) -> None:
    assert SlotErrorRate().score(predictions_of("chen", data_folder / "data/e2e")) > 20
