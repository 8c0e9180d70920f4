"""ROUGE-1, ROUGE-2 and ROUGE-L beside rouge-score itself."""

import subprocess
import sys

import pytest
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import BootstrapAggregator
from support.made_up_predictions import prediction, random_predictions

from ptl_prefix.evaluation.metric import load_metric
from ptl_prefix.evaluation.rouge_score_metric import RougeScoreMetric

NAMES = ["rouge1", "rouge2", "rougeL"]


def test_they_are_rouge_scores_own_means_where_each_input_has_one_reference() -> None:
    some = random_predictions(30, num_references=(1, 1))
    scorer, aggregator = RougeScorer(NAMES, use_stemmer=True), BootstrapAggregator()
    for one in some:
        aggregator.add_scores(scorer.score(one.references[0], one.hypothesis))

    # The aggregator's middle is the median of resampled means, which differs from their mean by chance alone.
    for name, aggregate in aggregator.aggregate().items():
        assert load_metric(name).score(some) == pytest.approx(100 * aggregate.mid.fmeasure, abs=1)
        exact = sum(scorer.score(one.references[0], one.hypothesis)[name].fmeasure for one in some) / 30
        assert load_metric(name).score(some) == pytest.approx(100 * exact)


@pytest.mark.parametrize("name", NAMES)
def test_of_several_references_the_best_counts(name: str) -> None:
    hypothesis, near, far = "the cats sat on a mat", "a cat sits on a rug", "dogs bark"

    best = load_metric(name).score([prediction(hypothesis, far, near)])

    assert isinstance(load_metric(name), RougeScoreMetric)
    assert best == load_metric(name).score([prediction(hypothesis, near)]) > 0


def test_words_are_stemmed() -> None:
    assert load_metric("rouge1").score([prediction("cats sitting", "cat sit")]) == pytest.approx(100)


def test_a_log_that_is_configured_anew_closes_nobodys_standard_error() -> None:
    code = (
        "import io, logging.config, sys\n"
        "own, sys.stderr = sys.stderr, io.StringIO()\n"
        "replaced = sys.stderr\n"
        "from ptl_prefix.evaluation.metric import load_metric\n"
        "load_metric('rouge1')\n"
        "sys.stderr = own\n"
        "logging.config.dictConfig({'version': 1})\n"
        "assert not replaced.closed\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)

    assert done.returncode == 0, done.stderr
