import pytest
from pycocoevalcap.rouge.rouge import Rouge
from support.made_up_predictions import prediction, random_predictions

from ptl_prefix.evaluation.metrics.rouge_l import RougeL, longest_common_subsequence
from ptl_prefix.evaluation.ptb_tokens import caption_words


def test_it_is_what_cocos_code_gives_for_the_same_words() -> None:
    some = random_predictions(40)
    references = {one.id: [" ".join(caption_words(text)) for text in one.references] for one in some}
    hypotheses = {one.id: [" ".join(caption_words(one.hypothesis))] for one in some}

    mean, _ = Rouge().compute_score(references, hypotheses)

    assert RougeL().score(some) == pytest.approx(100 * mean)


def test_the_best_precision_and_the_best_recall_may_be_of_different_references() -> None:
    # 2 of 4 words written are in the first, and all of the second reference is written.
    assert RougeL().score([prediction("a b c d", "a b x y z", "c")]) == pytest.approx(
        100 * (1 + 1.44) * 0.5 * 1.0 / (1.0 + 1.44 * 0.5)
    )


def test_punctuation_and_case_do_not_count() -> None:
    assert RougeL().score([prediction("the EAGLE is a pub", '"The Eagle", is a pub...')]) == pytest.approx(100)


@pytest.mark.parametrize(
    ("left", "right", "length"),
    [("", "", 0), ("abc", "", 0), ("abc", "abc", 3), ("abcbdab", "bdcaba", 4), ("ab", "ba", 1)],
)
def test_the_longest_common_subsequence(left: str, right: str, length: int) -> None:
    assert longest_common_subsequence(left, right) == length
