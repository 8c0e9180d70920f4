import math

import pytest
from pycocoevalcap.cider.cider import Cider
from support.made_up_predictions import prediction, random_predictions

from ptl_prefix.evaluation.metrics.cider import CIDEr
from ptl_prefix.evaluation.ptb_tokens import caption_words


def test_it_is_what_cocos_code_gives_for_the_same_words() -> None:
    some = random_predictions(40)
    references = {one.id: [" ".join(caption_words(text)) for text in one.references] for one in some}
    hypotheses = {one.id: [" ".join(caption_words(one.hypothesis))] for one in some}

    mean, _ = Cider().compute_score(references, hypotheses)

    assert CIDEr().score(some) == pytest.approx(mean)


def test_what_everybody_says_tells_nothing() -> None:
    assert CIDEr().score([prediction("the pub", "the pub"), prediction("the pub", "the pub", id="1")]) == 0.0


def test_a_copy_of_the_reference_gets_ten_and_loses_by_its_length() -> None:
    other = prediction("v w x y z", "v w x y z", id="1")

    assert CIDEr().score([prediction("a b c d e", "a b c d e"), other]) == pytest.approx(10)
    longer = CIDEr().score([prediction("a b c d e a b c d e", "a b c d e"), other])
    assert longer < 5 + 5 * math.exp(-(5**2) / (2 * 6**2))
