import math

import pytest
from nltk.translate.bleu_score import corpus_bleu
from support.made_up_predictions import prediction, random_predictions

from ptl_prefix.evaluation.metrics.multi_bleu import MultiBLEU
from ptl_prefix.evaluation.webnlg_text import challenge_texts


def test_it_is_nltks_corpus_score_of_the_challenges_text() -> None:
    # Nltk counts an n-gram of each length even where a text has none.
    some = [one for one in random_predictions(60) if len(one.hypothesis.split()) >= 4]
    texts = [challenge_texts(one) for one in some]
    references = [[text.split() for text in (*of_one, "", "")[:3]] for _, of_one in texts]

    expected = corpus_bleu(references, [hypothesis.split() for hypothesis, _ in texts])

    assert MultiBLEU().score(some) == pytest.approx(100 * expected)


def test_nothing_is_smoothed() -> None:
    assert MultiBLEU().score([prediction("a b c x", "a b c d")]) == 0.0


def test_punctuation_is_cut_off_and_case_and_accents_do_not_count() -> None:
    assert MultiBLEU().score([prediction("ADOLFO Suárez, a pilot.", "Adolfo Suarez , a pilot .")]) == pytest.approx(100)


def test_only_the_first_three_references_count() -> None:
    same = "a b c d e"

    assert MultiBLEU().score([prediction(same, "v", "w", "x", same)]) == 0.0
    assert MultiBLEU().score([prediction(same, "v", "w", same)]) == pytest.approx(100)


@pytest.mark.parametrize(("words", "penalty"), [(5, math.exp(1 - 9 / 5)), (4, 1.0)])
def test_an_absent_reference_is_an_empty_one_and_the_closest_to_a_very_short_text(words: int, penalty: float) -> None:
    reference = "a b c d e f g h i"

    score = MultiBLEU().score([prediction(reference[: 2 * words - 1], reference)])

    assert score == pytest.approx(100 * penalty)
