import importlib
import pkgutil

import pytest

from ptl_prefix.evaluation import metrics
from ptl_prefix.evaluation.evaluate import score
from ptl_prefix.evaluation.metric import Metric, Scored, metric_named

NAMES = sorted(module.name for module in pkgutil.iter_modules(metrics.__path__))


def output(hypothesis: str, *references: str, values: tuple[str, ...] = ()) -> Scored:
    return Scored(example_id="0", source="s", references=references, hypothesis=hypothesis, values=values)


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_is_found_by_its_files_name_and_says_what_it_means(name: str) -> None:
    metric = metric_named(name)

    assert isinstance(metric, Metric)
    assert type(metric).__module__ == f"{metrics.__name__}.{name}"
    assert metric.info.direction in ("minimize", "maximize")
    assert metric.info.scale
    assert metric.info.version
    assert metric.info.library


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_is_best_for_what_is_perfect(name: str) -> None:
    perfect = metric_named(name).score([output("The Eagle is a pub.", "The Eagle is a pub.", values=("Eagle", "pub"))])
    wrong = metric_named(name).score([output("Nothing of it!", "The Eagle is a pub.", values=("Eagle", "pub"))])

    assert perfect > wrong if metric_named(name).info.direction == "maximize" else perfect < wrong


def test_an_unknown_metric_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"must be one of attribute_accuracy, exact_match.*, but is 'blue'"):
        metric_named("blue")


@pytest.mark.parametrize(
    ("outputs", "share"),
    [
        ([output("a b", "a b")], 1.0),
        ([output("  a \n b", "a b")], 1.0),
        ([output("b", "a", "b")], 1.0),
        ([output("A b", "a b")], 0.0),
        ([output("a b c", "a b")], 0.0),
        ([output("", "a")], 0.0),
        ([output("a", "a"), output("a", "b"), output("b", "b"), output("", "b")], 0.5),
    ],
)
def test_exact_match_is_the_share_that_equals_a_reference_white_space_apart(
    outputs: list[Scored], share: float
) -> None:
    assert metric_named("exact_match").score(outputs) == share


@pytest.mark.parametrize(
    ("outputs", "share"),
    [
        ([output("The Eagle in Rome", "r", values=("The Eagle", "Rome"))], 1.0),
        ([output("The eagle in Rome", "r", values=("The Eagle", "Rome"))], 0.5),
        ([output("x", "r", values=("y",)), output("a b c", "r", values=("a", "b", "c"))], 0.75),
        ([output("x", "r"), output("a", "r", values=("a",))], 1.0),
    ],
)
def test_attribute_accuracy_is_the_share_of_all_values_that_are_mentioned(outputs: list[Scored], share: float) -> None:
    assert metric_named("attribute_accuracy").score(outputs) == share


def test_attribute_accuracy_of_a_task_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a task that names each example's values"):
        metric_named("attribute_accuracy").score([output("a", "a")])


def test_scores_come_by_name_with_what_they_mean() -> None:
    values, info = score([output("a", "a", values=("b",))], ["exact_match", "attribute_accuracy"])

    assert values == {"exact_match": 1.0, "attribute_accuracy": 0.0}
    assert info["exact_match"] == importlib.import_module(f"{metrics.__name__}.exact_match").ExactMatch.info
