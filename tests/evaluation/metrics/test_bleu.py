import math
from collections import Counter

import pytest
from sacrebleu.metrics import bleu as sacrebleu_bleu
from support.made_up_predictions import prediction, random_predictions

from ptl_prefix.evaluation.metrics.bleu import BLEU


def test_it_is_sacrebleus_corpus_score_with_any_number_of_references() -> None:
    some = random_predictions(40)
    streams = [[one.references[place] if place < len(one.references) else None for one in some] for place in range(4)]
    theirs = sacrebleu_bleu.BLEU(lowercase=True, force=True).corpus_score([one.hypothesis for one in some], streams)  # type: ignore[arg-type]

    assert BLEU().score(some) == pytest.approx(theirs.score, abs=1e-12)


def test_case_does_not_count_and_punctuation_is_a_word_of_its_own() -> None:
    assert BLEU().score([prediction("THE eagle , is a pub .", "The Eagle, is a pub.")]) == pytest.approx(100)


def test_of_two_equally_close_references_the_shorter_one_counts() -> None:
    six = "a b c d e f"
    # 5 and 7 words are equally close to 6: by the shorter one nothing is penalised.
    assert BLEU().score([prediction(six, "a b c d e", "a b c d e f g")]) == pytest.approx(100)
    assert BLEU().score([prediction(six, "a b c d e f g")]) == pytest.approx(100 * math.exp(1 - 7 / 6))


def test_it_is_one_number_of_all_counts_and_no_mean_of_sentences() -> None:
    pairs = [("a b c d e", "a b c d f"), ("g h i j k l", "g h i j k l m")]
    matches, totals = Counter[int](), Counter[int]()
    for hypothesis, reference in pairs:
        ours, theirs = hypothesis.split(), reference.split()
        for n in range(1, 5):
            grams = [tuple(ours[i : i + n]) for i in range(len(ours) - n + 1)]
            totals[n] += len(grams)
            matches[n] += sum(gram in {tuple(theirs[i : i + n]) for i in range(len(theirs))} for gram in grams)
    by_hand = math.exp(1 - 12 / 11 + sum(math.log(matches[n] / totals[n]) for n in range(1, 5)) / 4)

    assert BLEU().score([prediction(*pair) for pair in pairs]) == pytest.approx(100 * by_hand)
