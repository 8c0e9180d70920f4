from support.made_up_predictions import prediction

from ptl_prefix.evaluation.webnlg_text import challenge_texts


def test_texts_are_in_lower_case_and_ascii_and_cut_at_every_sign() -> None:
    text = "Adolfo Suárez  Madrid–Barajas' runway_is 3.5 km."

    hypothesis, (reference,) = challenge_texts(prediction(text, text))

    assert hypothesis == "adolfo suarez madrid - barajas ' runway_is 3 . 5 km ."
    assert reference == hypothesis


def test_a_hypothesis_is_made_ascii_before_it_is_cut_and_a_reference_after() -> None:
    hypothesis, (reference,) = challenge_texts(prediction("a…b", "a…b"))

    assert (hypothesis, reference) == ("a . . . b", "a ... b")


def test_the_first_three_references_count() -> None:
    assert challenge_texts(prediction("x", *"abcde"))[1] == ("a", "b", "c")
