"""What a self-study would do, from a document and the backbone's tokenizer alone.

In: a document, a backbone or its shape, settings, and questions of the user. Out: a `StudyEstimate`: the chunks and
conversations that are planned, their coverage, and bounds of the tokens that are read and written. Nothing is
generated.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.distillation.coverage import coverage_notes, coverage_of
from ptl_prefix.distillation.document import StudyDocument
from ptl_prefix.distillation.plan import Slot, plan_slots
from ptl_prefix.distillation.settings import CHAT_TOKENS, PLAIN_TOKENS, SelfStudySettings
from ptl_prefix.distillation.study_inputs import StudyInputs


@dataclass(frozen=True, kw_only=True)
class StudyEstimate:
    """Plan of a self-study.

    Args:
        document_tokens: Number of tokens of the document.
        kinds: Number of planned conversations by what asks.
        num_chunks: Number of chunks that are read.
        mean_chunk_tokens: Mean number of tokens of a chunk.
        coverage: Tokens of all conversations' chunks, divided by the document's.
        num_validation: Number of conversations that are held out.
        read_tokens: Bound of the tokens of all prompts, each as long as the settings allow; one attempt each.
        written_tokens: Bound of the generated tokens; one attempt each.
        notes: Sentences about the coverage.
    """

    document_tokens: int
    kinds: dict[str, int]
    num_chunks: int
    mean_chunk_tokens: float
    coverage: float
    num_validation: int
    read_tokens: int
    written_tokens: int
    notes: tuple[str, ...]

    @property
    def num_conversations(self) -> int:
        """Number of planned conversations."""
        return sum(self.kinds.values())


def estimate_study(
    text: str, backbone: Backbone, settings: SelfStudySettings, questions: Sequence[str]
) -> StudyEstimate:
    """Plan a self-study.

    Args:
        text: Text of the document.
        backbone: The backbone, or its shape alone.
        settings: Settings of the self-study.
        questions: Questions of the user.

    Raises:
        DataError: The document has no tokens.
    """
    prompter = backbone.prompter(
        PromptFormat(before="", between="", truncation="left", chat=settings.chat_of(backbone))
    )
    document = StudyDocument(text, backbone)
    inputs = StudyInputs(document=document, backbone=backbone, prompter=prompter, settings=settings)
    slots = plan_slots(document, settings, questions, asks=inputs.asks)
    kinds = Counter[str]()
    for slot in slots:
        kinds[slot.kind] += slot.wanted
    number = kinds.total()
    chunks = [slot.chunk for slot in slots if slot.chunk is not None]
    coverage = coverage_of(
        [slot.chunk for slot in slots if slot.chunk for _ in range(slot.wanted)], document.num_tokens
    )
    costs = [_tokens(slot, inputs) for slot in slots]
    return StudyEstimate(
        document_tokens=document.num_tokens,
        kinds=dict(kinds),
        num_chunks=len(chunks),
        mean_chunk_tokens=sum(end - first for first, end in chunks) / max(len(chunks), 1),
        coverage=coverage,
        num_validation=settings.num_validation(number),
        read_tokens=sum(read for read, _ in costs),
        written_tokens=sum(written for _, written in costs),
        notes=tuple(coverage_notes(coverage, number, document.num_tokens)),
    )


def _tokens(slot: Slot, inputs: StudyInputs) -> tuple[int, int]:
    """Tokens that are read and written for a slot, at most: to ask, to answer, and as the teacher."""
    settings = inputs.settings
    around = CHAT_TOKENS if inputs.is_chat else PLAIN_TOKENS
    prompt = around + (0 if slot.chunk is None else slot.chunk[1] - slot.chunk[0])
    question, answer = settings.max_question_tokens, settings.max_answer_tokens
    read = slot.wanted * (prompt + question + answer)
    if settings.passages or slot.kind == "completion":
        return read, 0
    read, written = read + slot.wanted * (prompt + question), slot.wanted * answer
    if slot.question is None and inputs.asks:
        return read + prompt, written + slot.wanted * question
    return read, written
