from collections.abc import Iterator
from typing import Any

import pytest
from support.made_up_predictions import prediction, random_predictions

from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.evaluation import meteor_program
from ptl_prefix.evaluation.metrics.meteor import METEOR
from ptl_prefix.evaluation.ptb_tokens import caption_words

if (reason := meteor_program.unavailable_reason()) is not None:
    pytest.skip(f"METEOR: {reason}", allow_module_level=True)


@pytest.fixture(scope="module")
def cocos_meteor() -> Iterator[Any]:
    """COCO's own way to the program, which it talks to line by line."""
    from pycocoevalcap.meteor.meteor import Meteor

    meteor = Meteor()
    yield meteor
    meteor.meteor_p.stdin.close()
    meteor.meteor_p.wait(timeout=180)
    for stream in (meteor.meteor_p.stdout, meteor.meteor_p.stderr):
        stream.close()


def theirs(cocos_meteor: Any, predictions: list[Prediction]) -> float:
    references = {one.id: [" ".join(caption_words(text)) for text in one.references] for one in predictions}
    hypotheses = {one.id: [" ".join(caption_words(one.hypothesis))] for one in predictions}
    score, _ = cocos_meteor.compute_score(references, hypotheses)
    return float(score)


@pytest.mark.slow
def test_it_is_what_cocos_code_gives_for_a_set_with_stems_synonyms_and_equals(cocos_meteor: Any) -> None:
    some = [
        *random_predictions(30),
        prediction("A big restaurant serves cheap meals", "A large restaurant serving inexpensive food", id="syn"),
        prediction("The Eagle is near the river.", "The Eagle is near the river!", id="same"),
    ]

    assert METEOR().score(some) == pytest.approx(100 * theirs(cocos_meteor, some), rel=1e-9)


@pytest.mark.slow
def test_what_is_the_same_gets_everything_and_nothing_gets_nothing(cocos_meteor: Any) -> None:
    same = [prediction("the pub is near", "the pub is near")]

    assert METEOR().score(same) == pytest.approx(100 * theirs(cocos_meteor, same)) == pytest.approx(100)
    assert METEOR().score([prediction("", "the pub")]) == 0.0


@pytest.mark.slow
def test_a_part_has_the_score_of_its_rows(cocos_meteor: Any) -> None:
    some = random_predictions(20)

    rows = METEOR().statistics(some)

    assert METEOR().value(rows[5:12].sum(axis=0)) == pytest.approx(100 * theirs(cocos_meteor, some[5:12]), rel=1e-9)


@pytest.mark.slow
def test_lines_and_bars_in_a_text_do_not_put_rows_out_of_step() -> None:
    texts = ["a ||| b", "a\nb", "a\rb", "a\u2028b", "", "|||"]

    rows = METEOR().statistics([prediction(text, "a b", id=str(number)) for number, text in enumerate(texts)])

    # Tokens are cut before the program sees them: bars are words apart.
    assert rows[:, 0].tolist() == [5, 2, 2, 2, 0, 3]
