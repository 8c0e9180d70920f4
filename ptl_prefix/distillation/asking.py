"""Asking for questions: what a model is asked for, and what its reply becomes.

In: a kind of question and a chunk. Out: a prompt that ends with the beginning of the reply, and the questions in the
reply. A backbone without a chat template asks nothing: the beginning of a sentence stands in the place of a question,
and the teacher continues it.
"""

import random
import re
from dataclasses import dataclass

from ptl_prefix.artifacts.conversation import Message, source_of, with_context
from ptl_prefix.artifacts.self_study_facts import Kind
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.distillation.seeds import SEEDS

_BY_KIND = {seed.kind: seed for seed in SEEDS}
_ITEM = re.compile(r"^\s*\d{1,2}[.)]\s*(.+?)\s*$", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.?!](?=\s|$)")
_SENTENCE = re.compile(r"[^\s][^\n]*?(?:[.!?](?=\s)|(?=\n)|$)")
_LEAST_BEGINNING, _MOST_BEGINNING = 4, 12
"""Words of the beginning of a passage, half of it where that is between these."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A prompt that asks for questions.

    Args:
        prompt: Ids of the prompt, those of the reply's beginning included.
        beginning_ids: Ids of the reply's beginning.
        wanted: Number of questions.
        is_question: Whether a question mark must end each of them.
    """

    prompt: list[int]
    beginning_ids: list[int]
    wanted: int
    is_question: bool

    def ends_with(self, token: str) -> bool:
        """Whether a token ends the reply: one question ends with its line, or its question mark."""
        return self.wanted == 1 and ("\n" in token or "?" in token)

    def questions(self, reply: str) -> list[str]:
        """The questions in a reply, its beginning included; an empty text for each that is missing or has no end."""
        found = [reply.strip()] if self.wanted == 1 else _ITEM.findall(reply)
        return [self._whole(text) for text in [*found, *[""] * self.wanted][: self.wanted]]

    def _whole(self, text: str) -> str:
        """The first line of a text up to its last whole sentence, without quotation marks around it."""
        line = text.partition("\n")[0].strip().strip('"“”`*').strip()
        ends = [match.end() for match in _SENTENCE_END.finditer(line) if match[0] == "?" or not self.is_question]
        return line[: ends[-1]] if ends else ""


def ask(kind: Kind, chunk: str, prompter: Prompter, *, wanted: int, draw: int) -> Asking:
    """The prompt that asks for questions.

    Args:
        kind: Kind of the questions.
        chunk: Text that they are about.
        prompter: Encoder of the conversation.
        wanted: Number of questions.
        draw: Seed of the choice between the reply's beginnings.
    """
    seed = _BY_KIND[kind]
    messages = with_context([Message("user", seed.prompt(wanted))], chunk, place=prompter.context_place)
    beginning = random.Random(draw).choice(seed.beginnings)
    ids = prompter.tokenize_targets([f"1. {beginning}" if wanted > 1 else beginning])[0]
    prompt = [*prompter.encode_source(source_of(messages)), *ids]
    return Asking(prompt=prompt, beginning_ids=ids, wanted=wanted, is_question=seed.is_question)


def passage_beginning(chunk: str, draw: int) -> str:
    """The beginning of a sentence of a chunk, which stands in the place of a question.

    Args:
        chunk: Text of the chunk.
        draw: Seed of the choice of the sentence.
    """
    sentences = [match[0].split() for match in _SENTENCE.finditer(chunk)]
    long = [words for words in sentences if len(words) >= 2 * _LEAST_BEGINNING] or [chunk.split()]
    words = random.Random(draw).choice(long)
    return " ".join(words[: min(max(len(words) // 2, _LEAST_BEGINNING), _MOST_BEGINNING)])


def up_to_last_sentence(text: str) -> str:
    """A text without the sentence that its limit cut off; all of it if it has no other."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text
