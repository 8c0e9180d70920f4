"""The denoising objectives of BART and T5: what is masked, and that nothing is lost."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from denoising import SENTINELS, Row, SpanCorruption, TextInfilling, segments
from seq2seq_models import tokenizer_for

from ptl_prefix.backbones.source import EMBEDDED

_BART, _T5 = (tokenizer_for(kind, EMBEDDED / "tiny_gpt2").backend_tokenizer for kind in ("bart", "t5"))
_PASSAGE = [
    "Norham is a small town on the river Elm.",
    "It was founded in 1213 by merchants from Hull.",
    "Its bridge was the first of its kind.",
]


def _tokens(text: str) -> list[str]:
    return _BART.encode(text, add_special_tokens=False).tokens


def _infilled(seed: int, **settings: float) -> tuple[list[str], str]:
    row = TextInfilling(_BART, **settings).row(_PASSAGE, np.random.default_rng(seed))
    return [str(_BART.id_to_token(token)) for token in row.source], _BART.decode(row.target, skip_special_tokens=False)


def _corrupted(seed: int) -> Row:
    return SpanCorruption(_T5).row(_PASSAGE, np.random.default_rng(seed))


def test_bart_writes_the_whole_passage_as_it_was() -> None:
    for seed in range(20):
        source, target = _infilled(seed)

        assert target == f"<s>{' '.join(_PASSAGE)}</s>"
        assert (source[0], source[-1]) == ("<s>", "</s>")


def test_bart_hides_three_tokens_in_ten_behind_masks() -> None:
    num_tokens = len(_tokens(" ".join(_PASSAGE)))
    num_masks = []
    for seed in range(200):
        source, _ = _infilled(seed, permutes=False)
        num_masks.append(source.count("<mask>"))
        kept = Counter(source) - Counter({"<mask>": num_masks[-1], "<s>": 1, "</s>": 1})

        assert kept.total() == num_tokens - round(0.3 * num_tokens)
        assert not kept - Counter(_tokens(" ".join(_PASSAGE)))
        assert ("<mask>", "<mask>") not in pairwise(source)
    # Spans of 3 on average; the last is cut to what is left to hide.
    assert 0.3 * num_tokens / 3 <= np.mean(num_masks) < 0.3 * num_tokens / 2.3


def test_bart_s_sentences_change_places() -> None:
    sources = {" ".join(_infilled(seed, masked_share=0.0)[0]) for seed in range(60)}

    assert len(sources) == 6


def test_without_noise_bart_reads_what_it_writes() -> None:
    row = TextInfilling(_BART, masked_share=0.0, permutes=False).row(_PASSAGE, np.random.default_rng(0))

    assert row.source == row.target


def test_t5_s_source_and_target_together_are_the_passage() -> None:
    sentinels = {_T5.token_to_id(sentinel) for sentinel in SENTINELS}
    end = _T5.token_to_id("</s>")
    for seed in range(100):
        row = _corrupted(seed)
        assert row.source[-1] == row.target[-1] == end
        assert _merged(row, sentinels) == _T5.encode(" ".join(_PASSAGE), add_special_tokens=False).ids


def _merged(row: Row, sentinels: set[int]) -> list[int]:
    """The source with every sentinel replaced by the span that the target has after it."""
    merged = list[int]()
    for token in row.source[:-1]:
        if token not in sentinels:
            merged.append(token)
            continue
        start = row.target.index(token) + 1
        for written in row.target[start:-1]:
            if written in sentinels:
                break
            merged.append(written)
    return merged


def test_t5_s_sentinels_stand_in_order_and_the_last_says_that_all_is_said() -> None:
    order = [_T5.token_to_id(sentinel) for sentinel in SENTINELS]
    for seed in range(50):
        row = _corrupted(seed)
        read = [token for token in row.source if token in order]
        written = [token for token in row.target if token in order]

        assert read == order[: len(read)]
        assert written == order[: len(read) + 1]
        assert row.target[-2] == written[-1]


def test_t5_hides_fifteen_in_a_hundred_in_spans_of_three() -> None:
    num_tokens = len(_tokens(" ".join(_PASSAGE)))
    wanted = round(0.15 * num_tokens)

    row = _corrupted(0)

    num_spans = len(row.source) - 1 - (num_tokens - wanted)
    assert num_spans == round(wanted / 3)
    assert len(row.target) == wanted + num_spans + 2


@pytest.mark.parametrize(
    ("noise", "end"),
    [(TextInfilling(_BART), _BART.token_to_id("</s>")), (SpanCorruption(_T5), _T5.token_to_id("</s>"))],
)
def test_a_long_passage_is_cut_and_still_ends(noise: TextInfilling | SpanCorruption, end: int) -> None:
    row = noise.row(["one two three four five six seven"] * 40, np.random.default_rng(0))

    assert max(len(row.source), len(row.target)) <= 96
    assert row.source[-1] == row.target[-1] == end


def test_every_token_is_hidden_as_often_as_any_other() -> None:
    rng = np.random.default_rng(0)
    hidden = Counter(token for _ in range(4000) for _, span in segments(list(range(12)), [2, 1], rng) for token in span)

    assert set(hidden) == set(range(12))
    assert max(hidden.values()) < 1.6 * min(hidden.values())


def test_spans_that_nothing_is_left_to_part_are_dropped() -> None:
    pairs = segments([1, 2, 3], [1, 1, 1], np.random.default_rng(0))

    assert [list(span) for _, span in pairs][:1] == [[1]]
    assert [token for kept, span in pairs for token in (*kept, *span)] == [1, 2, 3]
