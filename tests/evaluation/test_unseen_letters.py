"""Metrics that cannot read the script of the references are skipped."""

import pytest
from support.made_up_predictions import prediction

from ptl_prefix.evaluation.scoring import score

LATIN_ONLY = ["rouge1", "rouge2", "rougeL", "multi_bleu", "ter_webnlg"]
ANY_SCRIPT = ["bleu", "chrf", "chrf_pp", "ter", "rouge_l", "exact_match", "multi_bleu_dart", "ter_dart"]


@pytest.mark.parametrize(
    "text",
    [
        "今天天气很好，我们去公园散步。",
        "Привет, как дела сегодня вечером?",
        "सारस दीक्रब के साथ घर",
        "Αυτό είναι ένα παλιό κείμενο.",
        "مرحبا كيف حالك اليوم يا",
        "今天是2023年十月，天气很好。",
    ],
)
def test_a_perfect_text_of_another_script_is_scored_by_metrics_that_read_it(text: str) -> None:
    english = prediction("a pub in the city", "a pub in the city", id="1")

    scores = score([english, prediction(text, text)], [*LATIN_ONLY, *ANY_SCRIPT])

    assert list(scores.unavailable) == [name for name in LATIN_ONLY if name in scores.unavailable]
    assert set(scores.values) == {*ANY_SCRIPT, *LATIN_ONLY} - set(scores.unavailable)
    if "2023" not in text:
        assert set(scores.unavailable) == set(LATIN_ONLY)
        assert "rouge1 must be able to read the letters" in scores.unavailable["rouge1"]
        assert "use bleu or chrf" in scores.unavailable["rouge1"]
    assert scores.values["bleu"] == pytest.approx(100)
    assert scores.values["chrf"] == pytest.approx(100)
    assert scores.values["ter_dart"] == 0


def test_most_letters_must_be_read() -> None:
    mixed = "今天是2023年十月，天气很好。"

    assert set(score([prediction(mixed, mixed)], LATIN_ONLY).unavailable) == set(LATIN_ONLY)


@pytest.mark.parametrize("text", ["Café Żubr – crêpes £20 …", "Ærøskøbing ½ ß", "?!", "A pub."])
def test_latin_texts_and_signs_are_scored(text: str) -> None:
    assert not score([prediction(text, text), prediction("a b", "a b", id="1")], LATIN_ONLY).unavailable
