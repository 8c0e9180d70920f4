"""Inputs of a self-study whose model says what a test wrote down; the teacher is the tiny backbone itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ptl_prefix.artifacts.prompt_format import ChatFormat, PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompt_decoding import Prompt
from ptl_prefix.distillation.document import StudyDocument
from ptl_prefix.distillation.settings import SelfStudySettings
from ptl_prefix.distillation.study_inputs import StudyInputs

MILL = "The mill was built in 1820 by Anna Weiss. It grinds wheat and rye for nine villages. Its wheel is of oak.\n"
STOP = "<stop>"
"""At the end of a reply that ends by itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScriptedInputs(StudyInputs):
    """Inputs whose model replies by a script.

    Args:
        script: Replies to the prompts that hold a text, in turn; the last one is repeated. The first text that a prompt
            holds counts.
        prompts: Prompts so far, as texts.
    """

    script: Mapping[str, Sequence[str]]
    prompts: list[str] = field(default_factory=list)

    def replies(self, prompts: Sequence[Prompt], *, temperature: float) -> list[list[int]]:
        return [self._reply(str(self.backbone.tokenizer.decode(list(prompt.ids)))) for prompt in prompts]

    def _reply(self, prompt: str) -> list[int]:
        key = self._key(prompt)
        number = sum(self._key(earlier) == key for earlier in self.prompts)
        self.prompts.append(prompt)
        reply = self.script[key][min(number, len(self.script[key]) - 1)]
        ids = self.prompter.tokenize_targets([reply.removesuffix(STOP)])[0]
        return [*ids, *self.prompter.stop_ids] if reply.endswith(STOP) else ids

    def _key(self, prompt: str) -> str:
        return next(key for key in self.script if key in prompt)


def scripted_inputs(backbone: Backbone, script: Mapping[str, Sequence[str]], **settings: Any) -> ScriptedInputs:
    """Inputs on `MILL` with a chat template."""
    return ScriptedInputs(
        document=StudyDocument(MILL, backbone),
        backbone=backbone,
        prompter=backbone.prompter(PromptFormat(before="", between="", chat=ChatFormat(name="chatml"))),
        settings=SelfStudySettings(**{"top_k": 4, **settings}),
        script=script,
    )
