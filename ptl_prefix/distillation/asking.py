"""Asking for questions: what a model is asked for, and what its reply becomes.

In: a kind of question and a chunk. Out: a prompt that ends with the beginning of the reply, and the questions in the
reply. A backbone without a chat template asks nothing: the beginning of a sentence stands in the place of a question,
and the teacher continues it.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ptl_prefix.artifacts.conversation import Message, source_of, with_context
from ptl_prefix.artifacts.self_study_facts import Kind
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.distillation.seeds import COMPLETION, SEEDS, Seed

_BY_KIND: Mapping[Kind, Seed] = {seed.kind: seed for seed in SEEDS}
_ITEM = re.compile(r"^\s*\d{1,2}[.)]\s*(.+\n?)", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.?!](?=\s|$)")
_SENTENCE = re.compile(r"[^\s][^\n]*?(?:[.!?](?=\s)|(?=\n)|$)")
_LEAST_WORDS = 3
"""Words of a sentence: what ends before is an abbreviation."""
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][\w'-]+(?: (?:of )?[A-Z][\w'-]+){0,2}")
_SMALL = "of|and|or|in|on|at|to|is|was|are|were|that|which|who|for|by|with|from|as|has|had|have|not|can|must|will"
_NOUN = re.compile(
    r"\b([Tt]he|[Aa]n?|[Ii]ts|[Tt]heir) "
    rf"((?!(?:{_SMALL})\b)[a-z][a-z-]+(?: (?!(?:{_SMALL})\b)[a-z][a-z-]+)?)(?= (?:{_SMALL})\b|[,.;:)])"
)
"""What stands between an article and a small word or a comma; what a verb follows is left out, as verbs look alike."""
_LEAST_BEGINNING, _MOST_BEGINNING = 3, 12
"""Words of the beginning of a passage; at least two of its words are left to continue it."""


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
        """The questions in a reply; an empty text for each that is missing or has no end.

        Args:
            reply: The reply, its beginning included; it ends with a line's end if it is whole.
        """
        found = [reply] if self.wanted == 1 else _ITEM.findall(reply)
        return [self._whole(text) for text in [*found, *[""] * self.wanted][: self.wanted]]

    def _whole(self, text: str) -> str:
        """The first sentence of a text, or its first line, without quotation marks around it."""
        line, end, _ = text.partition("\n")
        line = line.strip().strip('"“”`*').strip()
        for match in _SENTENCE_END.finditer(line):
            if match[0] == "?" or not (self.is_question or len(line[: match.end()].split()) < _LEAST_WORDS):
                return line[: match.end()]
        # A request may end with its line, as the title of a list does.
        return line.rstrip(":") if end and not self.is_question else ""


def told_with(kind: Kind, question: str) -> str:
    """What the teacher reads of a question: the question, and what its kind tells about the answer."""
    told = _BY_KIND[kind].told if kind in _BY_KIND else ""
    return f"{question} {told}" if told else question


def ask(kind: Kind, chunk: str, prompter: Prompter, *, wanted: int, draw: int) -> Asking:
    """The prompt that asks for questions.

    Args:
        kind: Kind of the questions.
        chunk: Text that they are about.
        prompter: Encoder of the conversation.
        wanted: Number of questions.
        draw: Seed of the choice of a subject, and between the reply's beginnings.
    """
    seed, drawn = _BY_KIND[kind], random.Random(draw)
    subject = drawn.choice(subjects_of(chunk))
    messages = with_context([Message("user", seed.prompt(wanted, subject))], chunk, place=prompter.context_place)
    beginning = drawn.choice(seed.beginnings).format(subject=subject)
    ids = prompter.tokenize_targets([f"1. {beginning}" if wanted > 1 else beginning])[0]
    prompt = [*prompter.encode_source(source_of(messages)), *ids]
    return Asking(prompt=prompt, beginning_ids=ids, wanted=wanted, is_question=seed.is_question)


def subjects_of(chunk: str) -> list[str]:
    """What a chunk names: words with capitals inside of a sentence, and nouns after an article; else its long words."""
    named = dict.fromkeys(match[0] for match in _NAME.finditer(chunk))
    nouns = dict.fromkeys(f"{match[1].lower()} {match[2]}" for match in _NOUN.finditer(chunk))
    long = dict.fromkeys(sorted(re.findall(r"[^\W\d_]{3,}", chunk), key=len)[-5:])
    return [*named, *nouns] or list(long) or ["this"]


def passage_beginning(chunk: str, draw: int) -> str:
    """The beginning of a sentence of a chunk, which stands in the place of a question.

    Args:
        chunk: Text of the chunk.
        draw: Seed of the choice of the sentence, and of the number of its words.
    """
    sentences = [match[0] for match in _SENTENCE.finditer(chunk)]
    long = [one for one in sentences if len(one.split()) >= _LEAST_BEGINNING + 2] or [chunk]
    drawn = random.Random(draw)
    sentence = drawn.choice(long)
    ends = [match.end() for match in re.finditer(r"\S+", sentence)]
    # A short document has few sentences: cut at different places, each gives several conversations.
    most = max(min(len(ends) - 2, _MOST_BEGINNING), _LEAST_BEGINNING)
    return sentence[: ends[min(drawn.randint(_LEAST_BEGINNING, most), len(ends)) - 1]]


def completion_of(chunk: str, draw: int) -> tuple[str, str]:
    """A request to complete a sentence of a chunk, and the rest of that sentence.

    The answer is the document's own: nothing in it is invented, whatever the model.

    Args:
        chunk: Text of the chunk.
        draw: Seed of the choice of the sentence, and of the place where it is cut.
    """
    sentences = [" ".join(match[0].split()) for match in _SENTENCE.finditer(chunk)]
    drawn = random.Random(draw)
    long = [one for one in sentences if len(one.split()) > _LEAST_BEGINNING] or [chunk]
    # A chunk may end inside of a sentence, and a heading is none.
    sentence = drawn.choice([one for one in long if one[-1] in ".?!"] or long)
    ends = [match.end() for match in re.finditer(r"\S+", sentence)]
    # A cut near the end asks for a few words, as a question on a fact does.
    cut = ends[drawn.randint(min(_LEAST_BEGINNING, len(ends)), max(len(ends) - 1, 1)) - 1]
    return COMPLETION.format(beginning=sentence[:cut]), sentence[cut:].strip()


def passage_after(chunk: str, beginning: str) -> str:
    """What follows the beginning of a passage in a chunk."""
    return chunk[chunk.index(beginning) + len(beginning) :].strip()


def up_to_last_end(text: str) -> str:
    """A text without the sentence, or the item of a list, that its limit cut off; empty if it has no other."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: max([0, text.rfind("\n"), *ends])].rstrip()
