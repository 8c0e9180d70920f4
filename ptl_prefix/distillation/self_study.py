"""A document becomes a folder of conversations with a teacher's log-probabilities (Eyuboglu et al., 2025).

In: a document, a backbone, and settings. Out: the folder of a self-study. The backbone reads a chunk and asks; it reads
the same chunk and answers; and what it predicts at each token of the answer is what a student without the chunk learns.

A folder is made once: its name is the hash of everything that it depends on. A killed generation is resumed with the
block that it was at, and gives the same folder, byte by byte, on one machine.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ptl_prefix.artifacts.conversation import Message, with_context
from ptl_prefix.artifacts.document_text import read_document, text_sha256
from ptl_prefix.artifacts.fingerprint import fingerprint_text
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.artifacts.self_study import (
    SelfStudyFacts,
    StudyConversation,
    StudyCounts,
    read_self_study,
    write_self_study,
)
from ptl_prefix.artifacts.self_study_facts import SELF_STUDY_VERSION
from ptl_prefix.artifacts.unfinished_self_study import StudyBlock, UnfinishedSelfStudy
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.distillation.block import make_block
from ptl_prefix.distillation.coverage import coverage_notes, coverage_of
from ptl_prefix.distillation.document import StudyDocument
from ptl_prefix.distillation.filters import normalized
from ptl_prefix.distillation.own_questions import read_questions
from ptl_prefix.distillation.plan import Slot, plan_slots
from ptl_prefix.distillation.seeds import GENERAL_INSTRUCTIONS, SEEDS
from ptl_prefix.distillation.settings import SelfStudySettings, backbone_problems
from ptl_prefix.distillation.study_inputs import StudyInputs
from ptl_prefix.errors import DataError

_GENERATION = 2
"""Changes with the rules by which conversations are generated: the folders of other rules are other folders."""


def make_self_study(
    document: str | Path,
    backbone: Backbone,
    settings: SelfStudySettings,
    *,
    cache: Path,
    notify: Callable[[str], None] = lambda message: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Generate the self-study of a document, or find the one that was generated before.

    Args:
        document: Path of the document, a text file.
        backbone: Model that asks, answers and is the teacher; nothing may be attached to it.
        settings: Settings of the self-study.
        cache: Folder in which self-studies lie.
        notify: Callback for a line to the user.
        on_progress: Callback for the number of conversations that were generated or given up, and of all.

    Returns:
        Folder of the self-study, for `read_self_study`.

    Raises:
        ValueError: The settings do not fit the backbone.
        DataError: The document or the questions cannot be read, or no conversation is good enough.
        RunError: Another process is generating this self-study.
        StorageError: The disk does not take a file; what was generated is kept.
    """
    if problems := [*settings.problems(), *backbone_problems(settings, backbone)]:
        raise ValueError(" ".join(problems))
    inputs, questions = _inputs(document, backbone, settings)
    slots = plan_slots(inputs.document, settings, questions, asks=inputs.asks)
    key = _key(inputs, questions)
    folder, unfinished = cache / key, UnfinishedSelfStudy(cache / f"{key}.unfinished")
    with unfinished:
        if folder.is_dir():
            read_self_study(folder)
            notify(f"The self-study of this document was generated before: {folder}")
        else:
            blocks = list(_blocks(inputs, slots, unfinished, on_progress))
            _finish(folder, inputs, questions, blocks)
            _tell(folder, notify)
        unfinished.remove()
    return folder


def _inputs(document: str | Path, backbone: Backbone, settings: SelfStudySettings) -> tuple[StudyInputs, list[str]]:
    """What the blocks need, and the user's questions."""
    questions = [] if settings.questions is None else read_questions(settings.questions)
    prompt = PromptFormat(before="", between="", truncation="left", chat=settings.chat_of(backbone))
    study_document = StudyDocument(read_document(document), backbone)
    prompter = backbone.prompter(prompt)
    return StudyInputs(document=study_document, backbone=backbone, prompter=prompter, settings=settings), questions


def _key(inputs: StudyInputs, questions: Sequence[str]) -> str:
    """The hash of everything that the folder depends on."""
    identity = inputs.backbone.identity
    rules = (SELF_STUDY_VERSION, _GENERATION, SEEDS, GENERAL_INSTRUCTIONS)
    contexts = [with_context([Message("user", "")], "", place=place) for place in ("system", "user", "text")]
    return fingerprint_text(
        inputs.document.text,
        *(str(part) for part in (identity.weights_fingerprint, identity.tokenizer_fingerprint)),
        *(str(part) for part in (identity.config_fingerprint, identity.quantization, inputs.backbone.precision)),
        inputs.prompter.fingerprint,
        json.dumps(inputs.settings.stored(questions), sort_keys=True),
        repr((rules, contexts)),
    )[:16]


def _blocks(
    inputs: StudyInputs,
    slots: Sequence[Slot],
    unfinished: UnfinishedSelfStudy,
    on_progress: Callable[[int, int], None],
) -> Iterator[StudyBlock]:
    """All blocks, those of earlier processes read and the others generated."""
    total, done, known = sum(slot.wanted for slot in slots), 0, set[str]()
    on_progress(done, total)
    size = inputs.settings.batch_size
    for number, start in enumerate(range(0, len(slots), size)):
        part = slots[start : start + size]
        block = unfinished.read(number)
        if block is None:
            block = make_block(inputs, part, known)
            unfinished.add(number, block)
        known |= {normalized(conversation.question) for conversation in block.conversations}
        done += sum(slot.wanted for slot in part)
        on_progress(done, total)
        yield block


def _finish(folder: Path, inputs: StudyInputs, questions: Sequence[str], blocks: Sequence[StudyBlock]) -> None:
    """Write the folder of all blocks."""
    conversations = [conversation for block in blocks for conversation in block.conversations]
    teacher = [tokens for block in blocks for tokens in block.teacher]
    dropped = sum((Counter(block.dropped) for block in blocks), Counter[str]())
    asked = sum(block.asked for block in blocks)
    if not conversations:
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(dropped.items()))
        raise DataError(
            f"A self-study must keep a conversation, but all {asked} were dropped ({reasons}); choose a larger "
            "backbone or more self_study.attempts or max_answer_tokens, or give questions of your own."
        )
    text = inputs.document.text
    facts = SelfStudyFacts(
        document_sha256=text_sha256(text),
        document_tokens=inputs.document.num_tokens,
        backbone=inputs.backbone.identity,
        precision=inputs.backbone.precision,
        prompt=inputs.prompter.prompt_format,
        context_place=inputs.prompter.context_place,
        settings=inputs.settings.stored(questions),
        counts=StudyCounts(
            asked=asked,
            kept=len(conversations),
            dropped=dict(sorted(dropped.items())),
            given_up=sum(block.given_up for block in blocks),
            answer_tokens=sum(len(tokens.token_ids) for tokens in teacher),
        ),
        coverage=coverage_of([one.chunk for one in conversations if one.chunk], inputs.document.num_tokens),
        files={},
    )
    by_id = {one.id: tokens for one, tokens in zip(conversations, teacher, strict=True)}
    write_self_study(folder, facts, text, _with_splits(conversations, inputs.settings), by_id)


def _with_splits(conversations: Sequence[StudyConversation], settings: SelfStudySettings) -> list[StudyConversation]:
    """The conversations, of which the first ones in the order of a hash are the validation split."""

    def order(id: str) -> str:
        return hashlib.sha256(f"{settings.seed} {id}".encode()).hexdigest()

    number = settings.num_validation(len(conversations))
    held_out = set(sorted((one.id for one in conversations), key=order)[:number])
    return [replace(one, split="validation" if one.id in held_out else "train") for one in conversations]


def _tell(folder: Path, notify: Callable[[str], None]) -> None:
    """Tell the user what was kept, and whether it covers the document."""
    study = read_self_study(folder)
    counts = study.facts.counts
    reasons = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in counts.dropped.items())
    notify(
        f"{counts.kept} conversations of {counts.answer_tokens:,} answer tokens are kept; "
        f"{sum(counts.dropped.values())} questions and answers were dropped{f' ({reasons})' if reasons else ''}"
    )
    if counts.given_up:
        notify(f"{counts.given_up} conversations were given up after {study.facts.settings['attempts']} attempts.")
    for note in coverage_notes(study.facts.coverage, counts.kept, study.facts.document_tokens):
        notify(note)
