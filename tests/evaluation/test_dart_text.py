"""DART's texts are split at white space; raw texts are first brought into the form of its release."""

import pytest
from sacrebleu.metrics.bleu import BLEU
from support.made_up_predictions import prediction

from ptl_prefix.evaluation.dart_text import dart_texts
from ptl_prefix.evaluation.metric import load_metric


def test_released_texts_are_only_split_at_white_space() -> None:
    reference = "the a&b pub serves food near robert e . lee .".replace("a&b", "a & b")
    hypothesis = "the a&b pub  serves food near robert e . lee ."
    one = prediction(hypothesis, reference)

    expected = BLEU(tokenize="none", smooth_method="none", force=True).corpus_score(
        [hypothesis], [[reference], [""], [""]]
    )

    assert load_metric("multi_bleu_dart").score([one]) == pytest.approx(expected.score)
    assert load_metric("multi_bleu_dart").score([one]) < load_metric("multi_bleu").score([one])
    assert load_metric("multi_bleu_dart").score([prediction(reference.upper(), reference)]) == 0.0


def test_raw_texts_take_the_form_of_the_release_together() -> None:
    hypothesis, references = dart_texts(prediction("Adolf Schärf's pub.", "Robert E. Lee's V-2 (ship)", "A", "b", "c"))

    assert hypothesis == "adolf schärf ' s pub ."
    assert references == ("robert e . lee ' s v - 2 ( ship )", "a", "b")


def test_edits_are_counted_against_the_first_reference_alone() -> None:
    one = prediction("a b c d", "a b c x", "a b c d")

    assert load_metric("ter_dart").score([one]) == pytest.approx(25)
    assert load_metric("ter_webnlg").score([one]) == 0
