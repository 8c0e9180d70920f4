"""What every metric promises; a new file in `metrics/` is found by itself."""

import importlib
import pkgutil
from collections.abc import Sequence

import numpy as np
import pytest
from made_up_predictions import prediction, random_predictions

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation import metrics
from ptl_prefix.evaluation.metric import MeanMetric, Metric, library, metric_named, metric_names

NAMES = sorted(module.name for module in pkgutil.iter_modules(metrics.__path__))


def computed(name: str) -> Metric:
    metric = metric_named(name)
    if metric.lacks is not None:
        pytest.skip(metric.lacks)
    return metric


def perfect(predictions: Sequence[Prediction]) -> list[Prediction]:
    return [
        prediction(one.references[0], *one.references, id=one.id, values=(one.references[0].split()[0],))
        for one in predictions
    ]


def test_every_file_is_a_metric() -> None:
    assert metric_names() == NAMES
    assert {"bleu", "nist", "rouge_l", "cider", "exact_match"} <= set(NAMES)


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
def test_every_metrics_first_line_says_what_it_is(name: str) -> None:
    first = (importlib.import_module(f"{metrics.__name__}.{name}").__doc__ or "").splitlines()[0]

    assert first.endswith((".", ":"))
    assert len(first) <= 117


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_is_best_for_what_is_perfect_and_worst_for_nothing(name: str) -> None:
    metric = computed(name)
    some = random_predictions(20)
    best = metric.score(perfect(some))
    middling = metric.score(some)
    worst = metric.score([prediction("", *one.references, id=one.id, values=one.values) for one in some])

    if metric.info.direction == "minimize":
        best, middling, worst = -best, -middling, -worst
    assert best > middling >= worst


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_has_a_finite_row_for_each_prediction_and_its_number_is_that_of_their_sum(name: str) -> None:
    metric = computed(name)
    some = random_predictions(12)

    rows = metric.statistics(some)

    assert rows.dtype == np.float64
    assert rows.ndim == 2
    assert len(rows) == 12
    assert np.isfinite(rows).all()
    assert metric.score(some) == metric.value(rows.sum(axis=0))
    assert all(np.isfinite(metric.value(12 * row)) for row in rows), "a resample may be one prediction, twelve times"


@pytest.mark.parametrize("name", NAMES)
def test_a_row_depends_on_the_other_predictions_only_where_the_metric_says_so(name: str) -> None:
    metric = computed(name)
    some = random_predictions(10)

    alone = metric.statistics(some[:5])

    assert np.array_equal(metric.statistics(some)[:5], alone) is not metric.rows_depend_on_all


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["", " ", "\n", "…", "£", "a\nb", "𝔘 é ß", "-LRB- `` ''", '"', "don't", "|||"])
def test_every_metric_survives_every_text(name: str, text: str) -> None:
    metric = computed(name)

    number = metric.score([prediction(text, "A b c d.", "A.", values=("A",)), prediction("a", text or "x", id="1")])

    assert np.isfinite(number)


def test_an_unknown_metric_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"must be one of .*attribute_accuracy, .*exact_match.*, but is 'blue'"):
        metric_named("blue")


def test_a_mean_metric_is_the_mean_on_its_scale() -> None:
    class Lengths(MeanMetric):
        scale = 100.0

        def values(self, predictions: Sequence[Prediction]) -> list[float]:
            return [len(one.hypothesis) for one in predictions]

    assert Lengths().score([prediction("abc", "x"), prediction("", "x"), prediction("abcdef", "x")]) == 300.0


def test_a_library_is_named_with_its_version() -> None:
    assert library("numpy") == f"numpy {np.__version__}"
