"""TER, chrF and chrF++ beside the corpus scores that sacrebleu gives itself."""

from typing import Any

import pytest
from sacrebleu.metrics import chrf as sacrebleu_chrf
from sacrebleu.metrics import ter as sacrebleu_ter
from support.made_up_predictions import random_predictions

from ptl_prefix.evaluation.metric import load_metric


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("ter", sacrebleu_ter.TER()), ("chrf", sacrebleu_chrf.CHRF()), ("chrf_pp", sacrebleu_chrf.CHRF(word_order=2))],
)
def test_the_number_is_sacrebleus(name: str, theirs: Any) -> None:
    some = random_predictions(40)
    streams = [[one.references[place] if place < len(one.references) else None for one in some] for place in range(4)]

    expected = theirs.corpus_score([one.hypothesis for one in some], streams)

    assert load_metric(name).score(some) == pytest.approx(expected.score, abs=1e-12)
