"""One block of a self-study: its slots are asked, answered and read by the teacher, in batches.

In: slots, and the questions of earlier blocks. Out: a `StudyBlock`. It depends on nothing else, so a block that is
generated again is the same.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from ptl_prefix.artifacts.self_study_facts import StudyConversation
from ptl_prefix.artifacts.teacher_file import TeacherTokens
from ptl_prefix.artifacts.unfinished_self_study import StudyBlock
from ptl_prefix.backbones.prompt_decoding import Prompt
from ptl_prefix.distillation.asking import (
    ask,
    completion_of,
    passage_after,
    passage_beginning,
    told_with,
    up_to_last_end,
)
from ptl_prefix.distillation.filters import answer_problem, normalized, question_problem
from ptl_prefix.distillation.plan import Slot
from ptl_prefix.distillation.study_inputs import StudyInputs
from ptl_prefix.distillation.teacher import teacher_tokens

Asked = tuple[Slot, str]
"""A slot and one of its questions."""


@dataclass(eq=False)
class _Progress:
    """What a block has so far."""

    known: set[str]
    kept: dict[Slot, list[tuple[str, str]]]
    asked: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    written: dict[Asked, str] = field(default_factory=dict)
    """Answers that are the document's own, by what is asked."""

    def missing(self, slot: Slot) -> int:
        return slot.wanted - len(self.kept[slot])


def make_block(inputs: StudyInputs, slots: Sequence[Slot], known: Collection[str]) -> StudyBlock:
    """Generate the conversations of some slots.

    Args:
        inputs: Document, model and settings.
        slots: The slots.
        known: Questions of earlier blocks, normalized; none of them is asked again.
    """
    progress = _Progress(set(known), {slot: [] for slot in slots})
    for attempt in range(inputs.settings.attempts):
        open_slots = [slot for slot in slots if progress.missing(slot) and not (attempt and _is_fixed(inputs, slot))]
        questions = list(_questions(inputs, open_slots, attempt, progress))
        for (slot, question), answer in zip(questions, _answers(inputs, questions, attempt, progress), strict=True):
            if answer is not None:
                progress.known.add(normalized(question))
                progress.kept[slot].append((question, answer))
    conversations = list(_conversations(inputs, progress))
    return StudyBlock(
        conversations=conversations,
        teacher=[_teacher(inputs, conversation) for conversation in conversations],
        asked=progress.asked,
        dropped=dict(sorted(progress.dropped.items())),
        given_up=sum(map(progress.missing, slots)),
    )


def _is_fixed(inputs: StudyInputs, slot: Slot) -> bool:
    """Whether another attempt would give the same answer: that to a given question, decoded greedily."""
    return slot.question is not None and inputs.settings.answer_temperature == 0


def _conversations(inputs: StudyInputs, progress: _Progress) -> Iterator[StudyConversation]:
    for slot, found in progress.kept.items():
        for index, (question, answer) in enumerate(found):
            suffix = f"-{index}" if inputs.settings.questions_per_call > 1 else ""
            yield StudyConversation(
                id=f"{slot.kind}-{slot.number:05d}{suffix}",
                kind=slot.kind,
                split="train",
                chunk=slot.chunk,
                question=question,
                answer=answer,
            )


def _teacher(inputs: StudyInputs, conversation: StudyConversation) -> TeacherTokens:
    chunk = None if conversation.chunk is None else inputs.document.text_of(conversation.chunk)
    prompt = inputs.prompt_ids(told_with(conversation.kind, conversation.question), chunk)
    answer = inputs.prompter.encode_target(conversation.answer)
    settings = inputs.settings
    return teacher_tokens(inputs.backbone, prompt, answer, top_k=settings.top_k, top_mass=settings.top_mass)


def _questions(inputs: StudyInputs, slots: Sequence[Slot], attempt: int, progress: _Progress) -> Iterator[Asked]:
    """The questions of one attempt that are good enough, in the order of their slots."""
    asked = _asked(inputs, [slot for slot in slots if slot.question is None], attempt, progress)
    new = set[str]()
    for slot in slots:
        for question in [slot.question] if slot.question is not None else asked[slot]:
            progress.asked += 1
            problem = _question_problem(inputs, slot, question)
            if normalized(question) in progress.known | new:
                problem = "repeated"
            if problem is not None:
                progress.dropped[problem] += 1
                continue
            new.add(normalized(question))
            yield slot, question


def _question_problem(inputs: StudyInputs, slot: Slot, question: str) -> str | None:
    if slot.question is not None or slot.kind == "completion":
        return None
    if not question:
        return "unfinished_question"
    return question_problem(
        question,
        inputs.chunk_text(slot),
        check_numbers=inputs.settings.check_numbers,
        known_names=inputs.known_names,
    )


def _asked(inputs: StudyInputs, slots: Sequence[Slot], attempt: int, progress: _Progress) -> dict[Slot, list[str]]:
    """What is asked for each slot, whether it is good enough or not; an empty text for what is missing."""
    completed = [slot for slot in slots if slot.kind == "completion"]
    found = {slot: _completions(inputs, slot, attempt, progress) for slot in completed}
    return found | _asked_by_model(inputs, [slot for slot in slots if slot not in found], attempt, progress)


def _completions(inputs: StudyInputs, slot: Slot, attempt: int, progress: _Progress) -> list[str]:
    """Requests to complete sentences of the chunk, whose answers are noted."""
    requests = []
    for index in range(progress.missing(slot)):
        draw = slot.draw(f"completion {index}", attempt, inputs.settings.seed)
        request, answer = completion_of(inputs.chunk_text(slot) or "", draw)
        progress.written[slot, request] = answer
        requests.append(request)
    return requests


def _asked_by_model(
    inputs: StudyInputs, slots: Sequence[Slot], attempt: int, progress: _Progress
) -> dict[Slot, list[str]]:
    draws = [slot.draw("question", attempt, inputs.settings.seed) for slot in slots]
    chunks = [inputs.chunk_text(slot) or "" for slot in slots]
    if not inputs.asks:
        return {slot: [passage_beginning(chunk, draw)] for slot, chunk, draw in zip(slots, chunks, draws, strict=True)}
    askings = [
        ask(slot.kind, chunk, inputs.prompter, wanted=progress.missing(slot), draw=draw)
        for slot, chunk, draw in zip(slots, chunks, draws, strict=True)
    ]
    prompts = [
        Prompt(
            ids=asking.prompt,
            seed=draw,
            max_new_tokens=inputs.settings.max_question_tokens * asking.wanted,
            is_end=inputs.end_of(asking.ends_with),
        )
        for asking, draw in zip(askings, draws, strict=True)
    ]
    replies = inputs.replies(prompts, temperature=inputs.settings.temperature)
    found = {}
    for slot, asking, prompt, ids in zip(slots, askings, prompts, replies, strict=True):
        reply = inputs.prompter.decode([*asking.beginning_ids, *ids])
        found[slot] = asking.questions(f"{reply}\n" if prompt.is_end(ids[-1]) else reply)
    return found


def _answers(
    inputs: StudyInputs, questions: Sequence[Asked], attempt: int, progress: _Progress
) -> Iterator[str | None]:
    """The answer to each question; `None` for one that is dropped."""
    settings = inputs.settings
    if settings.passages:
        for slot, question in questions:
            answer = _passage(inputs, slot, question)
            if answer is None:
                progress.dropped["unfinished_answer"] += 1
            yield answer
        return
    generated = [one for one in questions if one not in progress.written]
    prompts = [
        Prompt(
            ids=inputs.prompt_ids(told_with(slot.kind, question), inputs.chunk_text(slot)),
            seed=slot.draw(f"answer to {question}", attempt, settings.seed),
            max_new_tokens=settings.max_answer_tokens,
            is_end=inputs.is_stop,
        )
        for slot, question in generated
    ]
    replies = dict(zip(generated, inputs.replies(prompts, temperature=settings.answer_temperature), strict=True))
    for slot, question in questions:
        if (slot, question) in progress.written:
            yield _cut(inputs, progress.written[slot, question])
            continue
        answer = _whole_answer(inputs, replies[slot, question])
        problem: str | None = "unfinished_answer"
        if answer is not None:
            chunk = inputs.chunk_text(slot)
            problem = answer_problem(
                answer, question, chunk, check_numbers=settings.check_numbers, known_names=inputs.known_names
            )
        if problem is not None:
            progress.dropped[problem] += 1
        yield None if problem else answer


def _passage(inputs: StudyInputs, slot: Slot, beginning: str) -> str | None:
    """What follows a beginning in the chunk, as much as an answer may be long; `None` if nothing does."""
    return _cut(inputs, passage_after(inputs.chunk_text(slot) or "", beginning))


def _cut(inputs: StudyInputs, passage: str) -> str | None:
    """A text of the document as an answer, as long as one may be; `None` without text."""
    ids = inputs.prompter.tokenize_targets([passage])[0][: inputs.settings.max_answer_tokens - 1]
    text = inputs.prompter.decode(ids)
    return up_to_last_end(text) or text or None


def _whole_answer(inputs: StudyInputs, ids: Sequence[int]) -> str | None:
    """The answer in a reply, cut after its last end if the reply has none; `None` if there is no end at all."""
    answer = inputs.prompter.decode(ids)
    if inputs.is_stop(ids[-1]):
        return answer
    # The student does not learn that answers end here: at the end, too, it learns what the teacher predicts.
    return up_to_last_end(answer) or (None if inputs.is_chat else answer)
