import re

import numpy as np
import pytest
from nltk.translate.nist_score import corpus_nist
from support.made_up_predictions import prediction, random_predictions

from ptl_prefix.evaluation.metrics.nist import NIST


def test_it_is_nltks_where_there_is_one_reference() -> None:
    """Of several references nltk takes the best alone, for length and for n-grams; of one, there is no difference."""
    one_each = random_predictions(30, num_references=(1, 1))
    references = [tuple(re.sub(r"\W+", " ", text).lower() for text in one.references) for one in one_each]
    some = [prediction(f"{texts[0]} and more words that nobody asked for", *texts) for texts in references]

    theirs = corpus_nist(
        [[text.split() for text in one.references] for one in some], [one.hypothesis.split() for one in some], n=5
    )

    assert NIST().score(some) == pytest.approx(theirs)


def test_an_ngram_is_worth_the_bits_of_its_last_word_after_the_others() -> None:
    # Of four words two are `a`: 1 bit; the others 2 bits each; `a b` after `a`: 1 bit, `a c`: 1 bit, `b a`: 0 bits.
    references = ["a b", "a c"]

    assert NIST().score([prediction("a b", *references)]) == pytest.approx((1 + 2) / 2 + 1 / 1)


@pytest.mark.parametrize(("written", "penalty"), [(6, 1.0), (9, 1.0), (4, 0.5), (0, 0.0)])
def test_the_penalty_halves_what_is_two_thirds_as_long_as_the_references_on_average(
    written: int, penalty: float
) -> None:
    information, ngrams = [2.0] * 5, [1.0] * 5
    # Two inputs with five references of 15 words in all: 3 on average, 6 for one of each.
    total = np.array([*information, *ngrams, written, 15, 5, 2])

    assert NIST().value(total) == pytest.approx(10 * penalty)


def test_nothing_written_is_worth_nothing() -> None:
    assert NIST().score([prediction("", "a b")]) == 0.0
