"""What every block of a self-study needs: a document, and a model that asks and answers.

In: prompts of one conversation or many. Out: the model's replies, sampled so that each has a seed of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ptl_prefix.artifacts.conversation import Message, source_of, with_context
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompt_decoding import Prompt, decode_prompts
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.distillation.document import StudyDocument
from ptl_prefix.distillation.names import name_stems
from ptl_prefix.distillation.plan import Slot
from ptl_prefix.distillation.settings import SelfStudySettings
from ptl_prefix.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyInputs:
    """A document, a backbone and the settings of a self-study.

    Args:
        document: The document.
        backbone: Model that asks, answers and is the teacher.
        prompter: Encoder of its conversations.
        settings: Settings of the self-study.
    """

    document: StudyDocument
    backbone: Backbone
    prompter: Prompter
    settings: SelfStudySettings

    @property
    def is_chat(self) -> bool:
        """Whether there is a chat template; without one, passages are continued."""
        return self.prompter.prompt_format.chat is not None

    @property
    def asks(self) -> bool:
        """Whether the model asks; if not, the beginnings of passages stand in the place of questions."""
        return self.is_chat and not self.settings.passages

    @cached_property
    def known_names(self) -> set[str] | None:
        """The stems of the document's words, if names are checked."""
        return name_stems(self.document.text) if self.settings.check_names else None

    def chunk_text(self, slot: Slot) -> str | None:
        """The text that the teacher of a slot reads."""
        return None if slot.chunk is None else self.document.text_of(slot.chunk)

    def prompt_ids(self, question: str, chunk: str | None) -> list[int]:
        """The ids of a prompt with a question, after a chunk if there is one."""
        messages = [Message("user", question)]
        if chunk is not None:
            messages = with_context(messages, chunk, place=self.prompter.context_place)
        return self.prompter.encode_source(source_of(messages))

    def replies(self, prompts: Sequence[Prompt], *, temperature: float) -> list[list[int]]:
        """The ids of the model's reply to each prompt.

        Raises:
            DataError: A prompt and its longest reply do not fit the backbone's positions.
        """
        longest = max((len(prompt.ids) + prompt.max_new_tokens for prompt in prompts), default=0)
        if (limit := self.backbone.max_positions) is not None and longest > limit:
            raise DataError(
                f"A chunk with its question and answer must fit the {limit} positions of {self.backbone.name}, but one "
                f"needs {longest}; set a smaller self_study.chunk_tokens, or shorten the longest of your own questions."
            )
        return decode_prompts(
            self.backbone,
            prompts,
            temperature=temperature,
            top_p=self.settings.top_p,
            num_rows=self.settings.batch_size,
        )

    def is_stop(self, token: int) -> bool:
        """Whether an id ends a reply."""
        return token in self.prompter.stop_ids

    def token_text(self, token: int) -> str:
        """The text of one id."""
        if token not in self._texts:
            self._texts[token] = str(self.backbone.tokenizer.decode([token]))
        return self._texts[token]

    @cached_property
    def _texts(self) -> dict[int, str]:
        return {}

    def end_of(self, is_text_end: Callable[[str], bool]) -> Callable[[int], bool]:
        """Whether an id ends a reply, or its text does."""
        return lambda token: self.is_stop(token) or is_text_end(self.token_text(token))
