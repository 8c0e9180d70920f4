"""What every metric promises; a new file in `metrics/` is found by itself."""

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from support.made_up_predictions import fit_predictions, prediction

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation import metrics
from ptl_prefix.evaluation.metric import MeanMetric, Metric, library, load_metric, metric_names

NAMES = sorted(module.name for module in pkgutil.iter_modules(metrics.__path__))

# METEOR reads its tables for seconds at each start; `metrics/test_meteor.py` has what is quick.
every_metric, every_program = (
    pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.slow) if name.startswith("meteor") else name for name in names]
    )
    # Forms of METEOR give other texts to the same program.
    for names in (NAMES, [name for name in NAMES if not name.startswith("meteor_")])
)


def computed(name: str) -> Metric:
    metric = load_metric(name)
    if metric.unavailable_reason is not None:
        pytest.skip(metric.unavailable_reason)
    return metric


def perfect(predictions: Sequence[Prediction]) -> list[Prediction]:
    return [replace(one, hypothesis=one.references[0], values=(one.references[0].split()[0],)) for one in predictions]


def test_every_file_is_a_metric() -> None:
    assert metric_names() == NAMES
    assert {"bleu", "nist", "rouge_l", "cider", "exact_match"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_is_found_by_its_files_name_and_says_what_it_means(name: str) -> None:
    metric = load_metric(name)

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


@every_metric
def test_every_metric_is_best_for_what_is_perfect_and_worst_for_nothing(name: str) -> None:
    metric = computed(name)
    some = fit_predictions(name, 20)
    best = metric.score(perfect(some))
    middling = metric.score(some)
    worst = metric.score([replace(one, hypothesis="") for one in some])

    if metric.info.direction == "minimize":
        best, middling, worst = -best, -middling, -worst
    assert best > middling >= worst


@every_program
def test_every_metric_has_a_finite_row_for_each_prediction_and_its_number_is_that_of_their_sum(name: str) -> None:
    metric = computed(name)
    some = fit_predictions(name, 12)

    rows = metric.statistics(some)

    assert rows.dtype == np.float64
    assert rows.ndim == 2
    assert len(rows) == 12
    assert np.isfinite(rows).all()
    assert metric.score(some) == metric.value(rows.sum(axis=0))
    assert all(np.isfinite(metric.value(12 * row)) for row in rows), "a resample may be one prediction, twelve times"


@every_program
def test_a_row_depends_on_the_other_predictions_only_where_the_metric_says_so(name: str) -> None:
    metric = computed(name)
    some = fit_predictions(name, 10)

    alone = metric.statistics(some[:5])

    assert np.array_equal(metric.statistics(some)[:5], alone) is not metric.rows_depend_on_all


@every_program
def test_every_metric_survives_every_text(name: str) -> None:
    metric = computed(name)
    texts = ["", " ", "\n", "…", "£", "a\nb", "𝔘 é ß", "-LRB- `` ''", '"', "don't", "|||", "\x00", "a\u2028b"]
    some = fit_predictions(name, len(texts) + 3)

    rows = metric.statistics([replace(one, hypothesis=text) for one, text in zip(some, texts, strict=False)])

    assert np.isfinite([metric.value(row) for row in rows]).all()


def test_an_unknown_metric_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"must be one of .*attribute_accuracy, .*exact_match.*, but is 'blue'"):
        load_metric("blue")


def test_a_mean_metric_is_the_mean_on_its_scale() -> None:
    class Lengths(MeanMetric):
        scale = 100.0

        def values(self, predictions: Sequence[Prediction]) -> list[float]:
            return [len(one.hypothesis) for one in predictions]

    assert Lengths().score([prediction("abc", "x"), prediction("", "x"), prediction("abcdef", "x")]) == 300.0


def test_a_library_is_named_with_its_version() -> None:
    assert library("numpy") == f"numpy {np.__version__}"
