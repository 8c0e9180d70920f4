"""Text becomes ids and ids become text again, for both kinds of tokenizers that decoder-only backbones come with."""

from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.llama_tokenizer import llama_like
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

import ptl_prefix.backbones.prompting as prompting
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.prompting import Prompter

EMBEDDED = Path(prompting.__file__).parent / "embedded" / "tiny_gpt2"


def gpt2_like() -> PreTrainedTokenizerBase:
    """Byte-level BPE: no space before a text, no bos of its own; one id is both bos and eos."""
    return cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(EMBEDDED))


@pytest.fixture(scope="module")
def gpt2() -> PreTrainedTokenizerBase:
    return gpt2_like()


@pytest.fixture(scope="module")
def llama() -> PreTrainedTokenizerBase:
    return llama_like()


def plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def test_the_default_format_is_that_of_the_papers_code(gpt2: PreTrainedTokenizerBase) -> None:
    prompter = Prompter(gpt2, PromptFormat())

    ids = prompter.encode_source("name : The Mill | Type : pub") + prompter.encode_target("The Mill is a pub.")

    assert gpt2.decode(ids) == "name : The Mill | Type : pub <|endoftext|> The Mill is a pub.<|endoftext|>"
    assert ids.count(gpt2.eos_token_id) == 2


def test_a_byte_level_target_is_tokenised_as_it_would_be_after_the_separator(gpt2: PreTrainedTokenizerBase) -> None:
    prompter = Prompter(gpt2, PromptFormat(between=" ##"))

    assert prompter.between_ids + prompter.tokenize_targets(["The Mill"])[0] == plain_ids(gpt2, " ## The Mill")


def test_a_target_gets_no_space_where_the_separator_ends_in_one(gpt2: PreTrainedTokenizerBase) -> None:
    prompter = Prompter(gpt2, PromptFormat(between="\n"))

    assert prompter.tokenize_targets(["The Mill"]) == [plain_ids(gpt2, "The Mill")]


def test_a_source_is_separated_from_text_before_it(gpt2: PreTrainedTokenizerBase) -> None:
    prompter = Prompter(gpt2, PromptFormat(before="Say:", between=" ##"))

    assert gpt2.decode(prompter.encode_source("it")) == "Say: it ##"


def test_a_tokenizer_with_a_space_of_its_own_gets_no_second_one(llama: PreTrainedTokenizerBase) -> None:
    prompter = Prompter(llama, PromptFormat(between=" :"))

    ids = prompter.encode_source("The Mill") + prompter.encode_target("a pub")

    assert ids == [1, *plain_ids(llama, "The Mill : a pub"), 2]


def test_bos_comes_first_where_the_tokenizer_puts_one(
    gpt2: PreTrainedTokenizerBase, llama: PreTrainedTokenizerBase
) -> None:
    assert Prompter(gpt2, PromptFormat()).before_ids == []
    assert Prompter(llama, PromptFormat()).before_ids == [1]
    assert Prompter(llama, PromptFormat(before="{bos}")).before_ids == [1]


def test_a_newline_that_ends_targets_is_the_stop_id_itself(llama: PreTrainedTokenizerBase) -> None:
    prompter = Prompter(llama, PromptFormat(after="\n"))

    assert prompter.stop_ids == (llama.convert_tokens_to_ids("<0x0A>"),)


def test_a_real_sentencepiece_tokenizer_is_served_likewise(data_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(data_folder / "models" / "stories260K")
    prompter = Prompter(tokenizer, PromptFormat(between=" ##", after="\n"))

    ids = prompter.encode_source("Once upon a time") + prompter.encode_target("there was a cat")

    assert tokenizer.decode(ids) == "<s> Once upon a time ## there was a cat\n"
    assert [place for place, token in enumerate(ids) if token == tokenizer.bos_token_id] == [0]
    assert prompter.decode(ids[ids.index(38) + 2 :]) == "there was a cat"


@pytest.mark.parametrize("kind", [gpt2_like, llama_like])
def test_a_special_token_that_someone_wrote_stays_text(kind: Any) -> None:
    tokenizer = kind()
    prompter = Prompter(tokenizer, PromptFormat(between="##"))
    text = f"The Mill {tokenizer.eos_token} pub"

    assert tokenizer.eos_token_id not in prompter.source_ids(text)
    assert prompter.encode_target(text).count(tokenizer.eos_token_id) == 1
    assert prompter.decode(prompter.encode_target(text)) == text


_GPT2 = Prompter(gpt2_like(), PromptFormat())


@given(st.text())
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    assert _GPT2.decode(_GPT2.encode_target(text)) == text.strip()


@given(st.text(min_size=1), st.integers(0, 12), st.sampled_from(["right", "left"]))
def test_a_truncated_source_keeps_the_configured_end(text: str, room: int, truncation: Any) -> None:
    prompter = Prompter(_GPT2._tokenizer, PromptFormat(truncation=truncation))
    whole = prompter.source_ids(text)

    cut = prompter.source_ids(text, room)

    assert len(cut) == min(room, len(whole))
    assert cut == (whole[: len(cut)] if truncation == "right" else whole[len(whole) - len(cut) :])
    assert len(prompter.encode_source(text, room)) == len(cut) + prompter.num_fixed_tokens


def test_the_format_limits_a_source_too(gpt2: PreTrainedTokenizerBase) -> None:
    prompter = Prompter(gpt2, PromptFormat(max_source_tokens=3))

    assert len(prompter.source_ids("one two three four five")) == 3
    assert len(prompter.source_ids("one two three four five", max_tokens=2)) == 2


def test_truncation_none_refuses_a_source_that_is_too_long(gpt2: PreTrainedTokenizerBase) -> None:
    prompter = Prompter(gpt2, PromptFormat(max_source_tokens=3, truncation="none"))

    with pytest.raises(ValueError, match="must have at most 3 tokens here, but has 5"):
        prompter.encode_source("one two three four five")


def test_decoding_stops_at_the_first_stop_id(gpt2: PreTrainedTokenizerBase) -> None:
    prompter = Prompter(gpt2, PromptFormat())
    ids = prompter.encode_target("The Mill") + prompter.encode_target("more")

    assert prompter.decode(ids) == "The Mill"
    assert prompter.decode([]) == ""


def test_decoding_leaves_out_padding_and_keeps_spaces_before_full_stops(gpt2: PreTrainedTokenizerBase) -> None:
    prompter = Prompter(gpt2, PromptFormat())

    assert prompter.decode([1, *prompter.tokenize_targets(["a pub ."])[0], 1]) == "a pub ."


def test_eos_stands_in_for_a_missing_bos() -> None:
    tokenizer = gpt2_like()
    tokenizer.bos_token = None

    assert Prompter(tokenizer, PromptFormat(between="{bos}")).between_ids == [0]


def test_a_tokenizer_without_special_ids_is_refused() -> None:
    tokenizer = gpt2_like()
    tokenizer.bos_token = tokenizer.eos_token = None

    with pytest.raises(ValueError, match=r"`between` uses \{bos\}, but the tokenizer has no such token"):
        Prompter(tokenizer, PromptFormat())


def test_a_target_must_end(gpt2: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="`after` must give at least one id"):
        Prompter(gpt2, PromptFormat(after=""))


def test_the_fingerprint_tells_formats_and_tokenizers_apart(
    gpt2: PreTrainedTokenizerBase, llama: PreTrainedTokenizerBase
) -> None:
    one = Prompter(gpt2, PromptFormat()).fingerprint

    assert Prompter(gpt2_like(), PromptFormat()).fingerprint == one
    assert Prompter(gpt2, PromptFormat(between=" ##")).fingerprint != one
    assert Prompter(gpt2, PromptFormat(truncation="left")).fingerprint != one
    assert Prompter(llama, PromptFormat()).fingerprint != one


def test_a_text_that_will_be_cut_is_no_cause_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    transformers_logging.enable_propagation()
    prompter = Prompter(gpt2_like(), PromptFormat(max_source_tokens=8))

    prompter.encode_source("a text without end, " * 200)
    transformers_logging.disable_propagation()

    assert not caplog.records


def bart_like() -> PreTrainedTokenizerBase:
    """Byte-level BPE whose texts stand between a start and an end of their own."""
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json"))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    named: Any = {"bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def t5_like() -> PreTrainedTokenizerBase:
    """SentencePiece's ways, with an end of its own and no start."""
    tokenizer: Any = llama_like()
    ids = [("</s>", 2)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=ids)
    return cast(PreTrainedTokenizerBase, tokenizer)


def test_an_encoder_decoder_reads_a_text_as_its_tokenizer_frames_it() -> None:
    bart, t5 = bart_like(), t5_like()

    for tokenizer, start in ((bart, 9), (t5, 0)):
        prompter = Prompter(tokenizer, PromptFormat(), decoder_start_id=start)
        assert prompter.encode_source("a name : Wildwood") == tokenizer("a name : Wildwood").input_ids
        own = tokenizer("a pub").input_ids
        # What is written starts as a text does, after the id that stands for nothing written yet.
        first = own[:1] if tokenizer is bart else []
        assert prompter.decoder_start_ids == [start, *first]
        assert [*first, *prompter.encode_target("a pub")] == own


def test_words_of_the_format_stay_and_its_special_ids_give_way_in_an_encoder() -> None:
    tokenizer = bart_like()

    prompter = Prompter(tokenizer, PromptFormat(before="Describe:", between="\nText: {bos}"), decoder_start_id=9)

    assert prompter.encode_source("a pub") == tokenizer("Describe: a pub\nText:").input_ids
    assert prompter.num_fixed_tokens == len(prompter.encode_source(""))


def test_a_decoder_only_backbone_has_no_start_of_its_own(gpt2: PreTrainedTokenizerBase) -> None:
    assert Prompter(gpt2, PromptFormat()).decoder_start_ids is None


def test_what_a_decoder_starts_with_is_part_of_the_fingerprint() -> None:
    tokenizer = bart_like()

    prompters = [Prompter(tokenizer, PromptFormat(), decoder_start_id=start) for start in (None, 3, 9)]

    assert len({prompter.fingerprint for prompter in prompters}) == 3
