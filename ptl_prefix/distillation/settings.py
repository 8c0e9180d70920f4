"""The settings of a self-study.

In: `conf/self_study/`. Out: `SelfStudySettings`, and what is wrong with them for a backbone, before its weights load.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from ptl_prefix.artifacts.decoding import LEAST_TEMPERATURE, SamplingSeed
from ptl_prefix.artifacts.prompt_format import ChatFormat
from ptl_prefix.artifacts.self_study_facts import StudyKind
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.settings import settings_from

LEAST_CHUNK = 16
CHAT_TOKENS, PLAIN_TOKENS = 128, 16
"""Positions for what a prompt holds besides chunk and question, with a chat template and without one: the template's
text, that of `with_context`, and a seed prompt."""
Temperature = Annotated[float, Ge(0), Le(10)]
Share = Annotated[float, Ge(0), Lt(1)]


class SelfStudySettings:
    """How a document becomes conversations with a teacher's log-probabilities.

    Args:
        chunk_tokens: Largest number of document tokens that the model reads for one conversation.
        min_chunk_tokens: Smallest number that is drawn; `None`: half of `chunk_tokens`. The document may be shorter.
        coverage: Tokens of all conversations' chunks, divided by the document's.
        num_conversations: Number of conversations on the document; `None`: as many as the coverage needs.
        kinds: Kinds of conversations, which take turns over the chunks; one that is named twice has twice as many.
        passages: Whether passages of the document stand in place of questions and answers: nothing is generated, and
            the teacher only reads. Enough for `method.init=attention_matching` without training.
        questions: File of questions of the user's own: text, one a line, or `.jsonl` with `question`; `None`: none.
        questions_per_call: Questions that the model is asked for at once.
        general_share: Share of conversations that are not about the document.
        validation_share: Share of conversations that are held out.
        temperature: Softmax temperature of the questions; 0 takes the most likely token.
        answer_temperature: Softmax temperature of the answers; 0 takes the most likely token.
        top_p: Probability mass of nucleus sampling, of both.
        max_question_tokens: Longest question in tokens.
        max_answer_tokens: Longest answer in tokens, its end included.
        check_numbers: Whether a question or answer with a number that its chunk does not have is dropped.
        check_names: Whether a question or answer with a name that the document does not have is dropped: a word with a
            capital inside of a sentence. For languages that write only names so.
        attempts: Times that a conversation is generated anew when it was dropped.
        batch_size: Conversations that are generated together.
        top_k: Most likely tokens whose log-probabilities are stored for each answer token.
        top_mass: Probability mass above which fewer of them are stored.
        chat_template: Template of the conversations; `auto` is the backbone's own, or none if it has none; `none`
            takes passages of the document and their continuations instead.
        seed: Seed of chunks, prompts and sampling.
    """

    @settings_from("self_study/default")
    def __init__(
        self,
        *,
        chunk_tokens: Annotated[int, Ge(LEAST_CHUNK), Le(2**20)],
        min_chunk_tokens: Annotated[int, Ge(1), Le(2**20)] | None,
        coverage: Annotated[float, Gt(0), Le(1e6)],
        num_conversations: Annotated[int, Ge(1), Le(10**7)] | None,
        kinds: Sequence[StudyKind],
        passages: bool,
        questions: str | None,
        questions_per_call: Annotated[int, Ge(1), Le(20)],
        general_share: Share,
        validation_share: Share,
        temperature: Temperature,
        answer_temperature: Temperature,
        top_p: Annotated[float, Gt(0), Le(1)],
        max_question_tokens: Annotated[int, Ge(4), Le(2**16)],
        max_answer_tokens: Annotated[int, Ge(2), Le(2**16)],
        check_numbers: bool,
        check_names: bool,
        attempts: Annotated[int, Ge(1), Le(100)],
        batch_size: Annotated[int, Ge(1), Le(4096)],
        top_k: Annotated[int, Ge(1), Le(2**16)],
        top_mass: Annotated[float, Gt(0), Le(1)],
        chat_template: Literal["auto", "backbone", "chatml", "llama3", "gemma", "none"],
        seed: SamplingSeed,
    ) -> None:
        self.chunk_tokens = chunk_tokens
        self.min_chunk_tokens = max(chunk_tokens // 2, 1) if min_chunk_tokens is None else min_chunk_tokens
        self.coverage, self.num_conversations = coverage, num_conversations
        self.kinds = tuple(kinds)
        self.passages, self.questions, self.questions_per_call = passages, questions, questions_per_call
        self.general_share, self.validation_share = general_share, validation_share
        self.temperature, self.answer_temperature, self.top_p = temperature, answer_temperature, top_p
        self.max_question_tokens, self.max_answer_tokens = max_question_tokens, max_answer_tokens
        self.check_numbers, self.check_names = check_numbers, check_names
        self.attempts, self.batch_size = attempts, batch_size
        self.top_k, self.top_mass = top_k, top_mass
        self.chat_template, self.seed = chat_template, seed

    def problems(self) -> list[str]:
        """Settings that contradict each other."""
        problems = []
        if not self.kinds:
            problems.append("`self_study.kinds` must name at least one kind of question, but is empty.")
        if self.min_chunk_tokens > self.chunk_tokens:
            problems.append(
                f"`self_study.min_chunk_tokens` must be <= `self_study.chunk_tokens`, but is {self.min_chunk_tokens} "
                f"with chunk_tokens={self.chunk_tokens}; change one of them."
            )
        if self.passages and self.questions is not None:
            problems.append(
                "`self_study.questions` must be null with `self_study.passages`, which answers no question, but is "
                f"'{self.questions}'; remove one of them."
            )
        for name in ("temperature", "answer_temperature"):
            if 0 < getattr(self, name) < LEAST_TEMPERATURE:
                problems.append(
                    f"`self_study.{name}` must be 0 or >= {LEAST_TEMPERATURE}, as logits are divided by it in float32, "
                    f"but is {getattr(self, name)}."
                )
        return problems

    def stored(self, questions: Sequence[str]) -> dict[str, Any]:
        """The values that a self-study depends on, for its folder: the questions themselves, and not their file."""
        own = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {**own, "questions": list(questions)}

    def num_validation(self, number: int) -> int:
        """How many of a number of conversations are held out."""
        least = 1 if self.validation_share > 0 and number > 1 else 0
        return max(round(self.validation_share * number), least)

    def chat_of(self, backbone: Backbone) -> ChatFormat | None:
        """The chat template of a backbone's conversations; `None` for passages and their continuations."""
        if self.chat_template == "auto":
            return ChatFormat(name="backbone") if backbone.tokenizer.chat_template else None
        return None if self.chat_template == "none" else ChatFormat(name=self.chat_template)


def backbone_problems(settings: SelfStudySettings, backbone: Backbone) -> list[str]:
    """Why a backbone cannot be asked with these settings; its weights need not be loaded.

    Args:
        settings: Settings of the self-study.
        backbone: The backbone, or its shape alone.
    """
    if backbone.is_encoder_decoder:
        return [
            f"A self-study must have a decoder-only backbone, whose prompt can hold a text, but {backbone.name} is an "
            "encoder-decoder; choose another backbone."
        ]
    if backbone.max_positions is None:
        return []
    around = PLAIN_TOKENS if settings.chat_of(backbone) is None else CHAT_TOKENS
    written = settings.max_question_tokens * settings.questions_per_call
    around += max(written, settings.max_question_tokens + settings.max_answer_tokens)
    left = backbone.max_positions - around
    if settings.chunk_tokens <= left:
        return []
    advice = (
        f"set self_study.chunk_tokens={left} or less"
        if left >= LEAST_CHUNK
        else "set smaller self_study.max_answer_tokens and max_question_tokens, or choose another backbone"
    )
    return [
        f"A chunk, its prompt, question and answer must fit the {backbone.max_positions} positions of {backbone.name}, "
        f"but with `self_study.chunk_tokens` of {settings.chunk_tokens} they need {settings.chunk_tokens + around}; "
        f"{advice}."
    ]
