"""A document as a task: conversations on it, whose answers a teacher gave with the document before it.

In: the folder of a self-study, and perhaps that of an older one, and a file of questions. Out: one example per
conversation: its source is the question alone, its target the answer. The teacher's log-probabilities at the answer's
tokens are learned, or, for comparison, the tokens themselves.

When a document has changed, a prefix of its older version can be trained further: on the new self-study, and on some
conversations of the older one, so that what has not changed is not forgotten.
"""

import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt, Lt

from ptl_prefix.artifacts.conversation import Message, source_of
from ptl_prefix.artifacts.manifest import BackboneIdentity
from ptl_prefix.artifacts.self_study import SelfStudy, StudyConversation, TeacherTokens, read_self_study
from ptl_prefix.data.collation import Teacher
from ptl_prefix.data.corpus_task import CorpusTask
from ptl_prefix.data.example import Example
from ptl_prefix.data.file_rows import fingerprint_file
from ptl_prefix.data.question_file import read_questions
from ptl_prefix.data.task import SPLITS, Split
from ptl_prefix.errors import DataError
from ptl_prefix.settings import settings_from, with_settings_of

Taught = tuple[SelfStudy, StudyConversation]
"""A conversation, and the self-study that holds its teacher's log-probabilities."""


class Distillation(CorpusTask):
    """Conversations of a self-study.

    Args:
        self_study: Folder of the self-study.
        loss: What the answers teach: `teacher` is the cross-entropy to the teacher's log-probabilities, `next_token`
            that to the tokens of the answers.
        replay: Folder of an older version's self-study, some of whose training conversations are trained on, too.
        replay_share: Share of the training conversations that come from `replay`, as far as it has so many.
        document_file: File of the document, whose path the bundle gets, so that a server recognises a changed document;
            it is not read. `None`: the bundle has no path.
        questions_file: File of questions with answers of the user's own, for the test split; `None`: there is none.
        metrics: Names of metrics.
        shared: Settings of `CorpusTask`.
    """

    version = "1"
    licence = ""
    keeps_targets_whole = True

    @settings_from("task/distillation")
    @with_settings_of(CorpusTask.__init__, without=("between", "max_source_tokens", "truncation"))
    def __init__(
        self,
        *,
        self_study: str | None,
        loss: Literal["teacher", "next_token"],
        replay: str | None,
        replay_share: Annotated[float, Gt(0), Lt(1)],
        document_file: str | None,
        questions_file: str | None,
        metrics: Sequence[str],
        **shared: Any,
    ) -> None:
        # The format of the prompts is that of the self-study.
        super().__init__(between="", max_source_tokens=None, truncation="none", **shared)
        self.metrics = tuple(metrics)
        self._self_study, self._loss = self_study, loss
        self._replay, self._replay_share = replay, replay_share
        self._document_file = document_file
        self._questions = None if questions_file is None else Path(questions_file).expanduser()
        if not self._folder_problems():
            self.prompt = self._study.facts.prompt

    @cached_property
    def _study(self) -> SelfStudy:
        if self._self_study is None:
            raise DataError(
                "`task.self_study` must be the folder of a self-study, but is null; `ptl-prefix distill "
                "document=<file>` makes one and trains on it."
            )
        return read_self_study(Path(self._self_study).expanduser())

    @cached_property
    def _replayed(self) -> SelfStudy | None:
        return None if self._replay is None else read_self_study(Path(self._replay).expanduser())

    def problems(self) -> list[str]:
        """Folders that hold no self-study, or two that do not fit together, and a file of questions that is missing."""
        problems = self._folder_problems()
        if self._questions is not None and not self._questions.is_file():
            problems.append(f"`task.questions_file` must be a file, but there is none at '{self._questions}'.")
        return problems

    def _folder_problems(self) -> list[str]:
        problems = []
        try:
            _ = self._study
        except DataError as error:
            problems.append(str(error) if self._self_study is None else f"`task.self_study`: {error}")
        try:
            _ = self._replayed
        except DataError as error:
            problems.append(f"`task.replay`: {error}")
        return problems or self._replay_problems()

    def _replay_problems(self) -> list[str]:
        if self._replayed is None:
            return []
        new, old = self._study.facts, self._replayed.facts
        differing = {
            "tokenizer": new.backbone.tokenizer_fingerprint != old.backbone.tokenizer_fingerprint,
            "prompt format": new.prompt != old.prompt,
        }
        return [
            f"`task.replay` must have the {what} of `task.self_study`, but has another one; make both self-studies "
            "with one backbone."
            for what, differs in differing.items()
            if differs
        ]

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that have conversations; the test split, if there is a file of questions."""
        has_own = {"test": self._questions is not None}
        return tuple(split for split in SPLITS if has_own.get(split, bool(split != "test" and self._taught(split))))

    @property
    def document(self) -> str:
        """The document of the self-study."""
        return self._study.document

    @property
    def document_sha256(self) -> str:
        """The hash of the document, as the self-study has it."""
        return self._study.facts.document_sha256

    @property
    def document_path(self) -> str | None:
        """The absolute path of the document's file, if it was given."""
        return None if self._document_file is None else str(Path(self._document_file).expanduser().absolute())

    @property
    def has_teacher(self) -> bool:
        """Whether the answers' tokens are not all that is learned."""
        return self._loss == "teacher"

    def teacher(self, split: Split) -> Teacher | None:
        """The teacher's log-probabilities of a split's examples; none of questions of the user's own."""
        if not self.has_teacher or split == "test":
            return None
        taught = self._taught(split)
        if split == "train" and self._num_train_examples is not None:
            taught = [taught[index] for index in self._subset(len(taught))]

        def teach(example: int) -> TeacherTokens:
            study, conversation = taught[example]
            return study.teacher(conversation.id)

        return teach

    def backbone_problems(self, identity: BackboneIdentity) -> list[str]:
        """Another tokenizer than the teacher's. Other weights, which may be those of a larger model, are noted."""
        teacher = self._study.facts.backbone
        if not self.has_teacher:
            return []
        if teacher.tokenizer_fingerprint != identity.tokenizer_fingerprint:
            return [
                f"`task.self_study` must be made with the tokenizer of the backbone, but its teacher {teacher.name} "
                f"has another one than {identity.name}; make it with this backbone, or set `task.loss` to next_token."
            ]
        if teacher.weights_fingerprint != identity.weights_fingerprint:
            self.add_note(f"the teacher is {teacher.name}, whose weights are not those of {identity.name}")
        return []

    def all_examples(self, split: Split) -> Iterator[Example]:
        """The conversations of a split in the order of their folders, the older one's last; or the user's questions."""
        if split == "test":
            yield from self._asked()
            return
        for _, conversation in self._taught(split):
            yield Example(self._source(conversation.question), targets=(conversation.answer,))

    def _source(self, question: str) -> str:
        """A question as one message of a user, also one that looks like a conversation itself."""
        return question if self.prompt.chat is None else source_of([Message("user", question)])

    def _asked(self) -> Iterator[Example]:
        if self._questions is None:
            raise DataError(f"{self.name} has no test split; give a file of questions with `task.questions_file`.")
        for one in read_questions(self._questions).questions:
            yield Example(self._source(one.question), targets=one.answers)

    def _taught(self, split: Split) -> list[Taught]:
        """The conversations of a split; in training, with those of an older self-study."""
        own = [(self._study, one) for one in self._study.conversations if one.split == split]
        if self._replayed is None or split != "train":
            return own
        old = [(self._replayed, one) for one in self._replayed.conversations if one.split == split]
        wanted = round(len(own) * self._replay_share / (1 - self._replay_share))
        if wanted > len(old):
            self.add_note(
                f"`task.replay` has {len(old)} training conversations of the {wanted} that `task.replay_share` wants"
            )
        chosen = random.Random(f"{self._subset_seed} replay").sample(range(len(old)), min(wanted, len(old)))
        return own + [old[index] for index in sorted(chosen)]

    def content(self, split: Split) -> object:
        """Hashes of the files, and the choice of older conversations."""
        if split == "test":
            return None if self._questions is None else fingerprint_file(self._questions)
        own = sorted(self._study.facts.files.items())
        if self._replayed is None or split != "train":
            return own
        return own, sorted(self._replayed.facts.files.items()), self._replay_share, self._subset_seed
