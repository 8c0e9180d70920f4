"""Self-studies of a made-up document, with a real teacher: the backbone itself, with the document before each question.

In: a backbone and a folder. Out: the folder. Each question is the beginning of one of the document's sentences, and its
answer is the rest: so a teacher that reads the document finds other words likely than one that does not.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from ptl_prefix.artifacts.conversation import Message, with_context
from ptl_prefix.artifacts.manifest import BackboneIdentity
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.artifacts.self_study import (
    SelfStudy,
    SelfStudyFacts,
    StudyConversation,
    StudyCounts,
    TeacherTokens,
    write_self_study,
)
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.prompting import Prompter

_NAMES = (
    "Alder Birch Cedar Dahlia Elder Fennel Ginger Hazel Iris Juniper Laurel Myrtle Nettle Olive Poppy Quince".split()
)
_PLACES = "harbour mill tower bridge garden chapel library market".split()
_PEOPLE = "bakers miners weavers sailors farmers smiths masons potters".split()
_GOODS = "copper barley amber granite linen honey silver timber".split()

PROMPT = PromptFormat(between="")
"""Format of the prompts of a backbone without a chat template: an answer continues its question."""


def sentences(number: int, *, version: int = 0) -> list[str]:
    """Sentences of one form; another version has other goods in half of them."""
    return [
        f"The {name} {_PLACES[place % 8]} was built by {_PEOPLE[place * 3 % 8]} and sells "
        f"{_GOODS[(place * 5 + version * (place % 2)) % 8]}."
        for place, name in enumerate(_NAMES[:number])
    ]


def conversations(number: int, *, version: int = 0) -> Iterator[StudyConversation]:
    """Every sentence cut at several places; one cut of each sentence is for validation. Two are of no document."""
    for place, sentence in enumerate(sentences(number, version=version)):
        words = sentence.split()
        for cut in range(3, len(words) - 1):
            is_validation = cut == 4 + place % 3
            yield StudyConversation(
                id=f"{place}-{cut}",
                kind="question",
                split="validation" if is_validation else "train",
                chunk=(0, number),
                question=" ".join(words[:cut]),
                answer=" ".join(words[cut:]),
            )
    for place, (question, answer) in enumerate([("Water boils at", "a hundred degrees."), ("One and one", "are two.")]):
        yield StudyConversation(
            id=f"general-{place}", kind="general", split="train", chunk=None, question=question, answer=answer
        )


Teach = Callable[[StudyConversation], TeacherTokens]


def write_study(folder: Path, backbone: Backbone, *, number: int = 4, version: int = 0, num_kept: int = 8) -> SelfStudy:
    """A self-study of so many sentences, with the most likely tokens of the backbone that has read all of them."""
    prompter = backbone.prompter(PROMPT)
    document = " ".join(sentences(number, version=version))

    def teach(conversation: StudyConversation) -> TeacherTokens:
        return _teacher(backbone, prompter, document, conversation, num_kept)

    num_tokens = len(backbone.tokenizer(document).input_ids)
    return _write(folder, teach, backbone.identity, number=number, version=version, num_tokens=num_tokens)


def write_untaught_study(folder: Path, prompter: Prompter, *, number: int = 4, version: int = 0) -> SelfStudy:
    """The same conversations; the teacher is sure of each token, and was no model."""

    def teach(conversation: StudyConversation) -> TeacherTokens:
        ids = torch.tensor(prompter.encode_target(conversation.answer), dtype=torch.int32)
        return TeacherTokens(token_ids=ids, top_ids=ids[:, None].clone(), top_log_probs=torch.zeros(len(ids), 1))

    return _write(folder, teach, NOBODY, number=number, version=version, num_tokens=100)


NOBODY = BackboneIdentity(
    name="nobody", path="nowhere", family="gpt2", weights_fingerprint="none", tokenizer_fingerprint="none"
)
"""The teacher of `write_untaught_study`."""


def _write(
    folder: Path, teach: Teach, identity: BackboneIdentity, *, number: int, version: int, num_tokens: int
) -> SelfStudy:
    document = " ".join(sentences(number, version=version))
    found = tuple(conversations(number, version=version))
    teacher = {one.id: teach(one) for one in found}
    facts = SelfStudyFacts(
        document_sha256=hashlib.sha256(document.encode()).hexdigest(),
        document_tokens=num_tokens,
        backbone=identity,
        precision="float32",
        prompt=PROMPT,
        context_place="text",
        settings={},
        counts=StudyCounts(
            asked=len(found),
            kept=len(found),
            dropped={},
            given_up=0,
            answer_tokens=sum(len(tokens.token_ids) for tokens in teacher.values()),
        ),
        coverage=float(len(found)),
        files={},
    )
    return write_self_study(folder, facts, document, found, teacher)


@torch.no_grad()
def _teacher(
    backbone: Backbone, prompter: Prompter, document: str, conversation: StudyConversation, num_kept: int
) -> TeacherTokens:
    messages = [Message("user", conversation.question)]
    if conversation.chunk is not None:
        messages = with_context(messages, document, place=prompter.context_place)
    prompt, answer = prompter.encode_source(messages[-1].content), prompter.encode_target(conversation.answer)
    ids = torch.tensor([prompt + answer], device=backbone.device)
    columns = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1, device=backbone.device)
    logits = backbone.target_logits(ModelInputs(ids, torch.ones_like(ids)), (torch.zeros_like(columns), columns))
    top = logits.float().log_softmax(-1).topk(num_kept)
    return TeacherTokens(
        token_ids=torch.tensor(answer, dtype=torch.int32),
        top_ids=top.indices.int().cpu(),
        top_log_probs=top.values.cpu(),
    )
