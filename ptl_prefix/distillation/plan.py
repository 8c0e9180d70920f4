"""The conversations that a self-study is to have, before any is generated.

In: a document, settings, and questions of the user. Out: `Slot`s in their order. Each slot has a chunk and a way to
ask, and is filled by the first attempts that are good enough: what is dropped changes neither coverage nor mix.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle

from ptl_prefix.artifacts.self_study_facts import Kind
from ptl_prefix.distillation.coverage import planned_chunks
from ptl_prefix.distillation.document import Chunk, StudyDocument
from ptl_prefix.distillation.seeds import GENERAL_INSTRUCTIONS
from ptl_prefix.distillation.settings import SelfStudySettings


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Conversations that are generated together.

    Args:
        kind: What asks.
        chunk: Chunk that is read; `None`: none.
        question: Given question; `None`: the model asks.
        wanted: Number of conversations; 1 with a given question.
        number: Place in the plan.
    """

    kind: Kind
    chunk: Chunk | None
    question: str | None = None
    wanted: int = 1
    number: int = -1

    def draw(self, purpose: str, attempt: int, seed: int) -> int:
        """A seed for one purpose and attempt: no other slot has it, and no order changes it."""
        digest = hashlib.sha256(f"{seed} {self.number} {attempt} {purpose}".encode()).digest()
        return int.from_bytes(digest[:7])


def plan_slots(
    document: StudyDocument, settings: SelfStudySettings, questions: Sequence[str], *, asks: bool
) -> list[Slot]:
    """All slots: the user's questions, those on the document, and those that are not about it.

    Args:
        document: The document.
        settings: Settings of the self-study.
        questions: Questions of the user.
        asks: Whether the model asks; if not, the beginnings of passages stand in the place of questions.
    """
    own = [
        Slot(kind="own", chunk=document.best_chunk(question, longest=settings.chunk_tokens), question=question)
        for question in questions
    ]
    slots = [*own, *_asked(document, settings, asks=asks)]
    slots += _general(sum(slot.wanted for slot in slots), settings)
    return [replace(slot, number=number) for number, slot in enumerate(slots)]


def _asked(document: StudyDocument, settings: SelfStudySettings, *, asks: bool) -> list[Slot]:
    """The slots whose questions the model asks; the kinds of questions take turns."""
    per_call = settings.questions_per_call if asks else 1
    chunks = planned_chunks(
        document.chunks(longest=settings.chunk_tokens, shortest=settings.min_chunk_tokens, seed=settings.seed),
        document.num_tokens,
        coverage=settings.coverage,
        per_chunk=per_call,
        number=settings.num_conversations,
    )
    slots = [
        Slot(kind=kind if asks else "continuation", chunk=chunk, wanted=per_call)
        for kind, chunk in zip(cycle(settings.kinds), chunks, strict=False)
    ]
    if settings.num_conversations is not None:
        excess = len(slots) * per_call - settings.num_conversations
        slots[-1] = replace(slots[-1], wanted=per_call - excess)
    return slots


def _general(num_others: int, settings: SelfStudySettings) -> list[Slot]:
    """The slots that are not about the document, each with another instruction: there are no more than instructions.

    There are none where nothing is generated.
    """
    if settings.passages:
        return []
    wanted = round(num_others * settings.general_share / (1 - settings.general_share))
    instructions = random.Random(f"general {settings.seed}").sample(
        GENERAL_INSTRUCTIONS, min(wanted, len(GENERAL_INSTRUCTIONS))
    )
    return [Slot(kind="general", chunk=None, question=instruction) for instruction in instructions]
