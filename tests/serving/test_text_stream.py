"""Text that comes out token by token is the text of all tokens, cut at the first stop text."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_backbones import tiny_tokenizer

from ptl_prefix.serving.text_stream import TextStream

_TOKENIZER = tiny_tokenizer()


def decode(ids: list[int]) -> str:
    return str(_TOKENIZER.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def streamed(text: str, *, stop: Sequence[str] = (), is_stripped: bool = False) -> tuple[list[str], bool]:
    """The pieces that a text comes out in, and whether it was stopped."""
    stream = TextStream(decode, stop=stop, is_stripped=is_stripped)
    pieces = []
    for token_id in _TOKENIZER(text, add_special_tokens=False).input_ids:
        pieces.append(stream.push(token_id))
        if stream.is_stopped:
            return pieces, True
    return [*pieces, stream.finish()], stream.is_stopped


@given(st.text(max_size=40))
def test_the_pieces_are_the_text(text: str) -> None:
    pieces, is_stopped = streamed(text)

    assert "".join(pieces) == decode(_TOKENIZER(text, add_special_tokens=False).input_ids)
    assert not is_stopped


@given(st.text(alphabet="ab \n", max_size=30), st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3))
def test_a_stop_text_ends_the_text_before_itself(text: str, stop: list[str]) -> None:
    pieces, is_stopped = streamed(text, stop=stop)

    # The first stop text that is complete ends it; of two that complete together, the one that began first.
    ends = [index for index in range(len(text) + 1) if any(text[:index].endswith(one) for one in stop)]
    assert is_stopped == bool(ends)
    if not ends:
        assert "".join(pieces) == text
    else:
        assert text.startswith("".join(pieces))
        assert not any(one in "".join(pieces) for one in stop)


@given(st.text(alphabet="ab \n\t", max_size=30))
def test_whitespace_around_a_stripped_text_is_left_out(text: str) -> None:
    assert "".join(streamed(text, is_stripped=True)[0]) == text.strip()


@pytest.mark.parametrize("text", ["é", "日本", "🙂🙃"])
def test_no_piece_holds_half_a_character(text: str) -> None:
    pieces, _ = streamed(text)

    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)
    assert len(pieces) > len(text) + 1, "the tokenizer must split these characters for the test to say anything"


def test_text_is_held_back_only_while_it_may_be_a_stop_text() -> None:
    stream = TextStream(lambda ids: "".join(map(chr, ids)), stop=["END"], is_stripped=False)

    assert [stream.push(ord(letter)) for letter in "xENyEND"] == ["x", "", "", "ENy", "", "", ""]
    assert stream.is_stopped
    assert stream.finish() == ""
