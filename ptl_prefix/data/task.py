"""The interface of a task: a data set, its rendering as text, and the metrics of its outputs.

In: the settings of `conf/task/<name>.yaml`. Out: examples, the prompt format and names of metrics. A new task is one
file in `tasks/` and one YAML file.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from ptl_prefix.artifacts.manifest import BackboneIdentity
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.data.collation import Teacher

if TYPE_CHECKING:
    import datasets

Split = Literal["train", "validation", "test"]
"""The name of a split."""
SPLITS: tuple[Split, Split, Split] = ("train", "validation", "test")


class Task(ABC):
    """One task. `encode_split` and evaluation call it; where its data come from is known to the task alone."""

    name: str
    """Name of the task in run folders and records."""
    version: str
    """Version of the rendering and the choice of data. Results of two versions are never compared."""
    licence: str
    """Licence of the data; empty for the user's own."""
    metrics: tuple[str, ...]
    """Names of the metrics that the task is scored with."""
    prompt: PromptFormat
    """Format of the prompts."""
    keeps_targets_whole: bool = False
    """Whether a pair is left out if its target would be cut, as a teacher has read the target whole."""
    instruction: str | None = None
    """Sentence that says what the task is, from which a method can start; it is not part of any input."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits that the data set has; asking for another one is an error."""
        return SPLITS

    @property
    def document(self) -> str | None:
        """The document that the task is about, from which a method can start; `None` if it is about none.

        Raises:
            DataError: A file is missing or malformed.
        """
        return None

    @property
    def document_sha256(self) -> str | None:
        """Hash of that document, by which a bundle says what it was made of."""
        return None

    @property
    def document_path(self) -> str | None:
        """Absolute path of that document's file, if it is known."""
        return None

    def teacher(self, split: Split) -> Teacher | None:
        """The teacher whose log-probabilities are learned in place of a split's targets; `None` learns the targets.

        Raises:
            DataError: A file is missing or malformed.
        """
        return None

    @property
    def has_teacher(self) -> bool:
        """Whether there is a `teacher`; no file is read for this."""
        return False

    def backbone_problems(self, identity: BackboneIdentity) -> list[str]:
        """Why the data mean nothing to the backbone that will be trained, if they were made with another one."""
        return []

    @property
    def label_set(self) -> tuple[str, ...] | None:
        """The closed set of targets of a classification task; `None` for free text."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What readers of results should know of the data that were read so far, as sentences without a subject."""
        return ()

    @property
    def share_read(self) -> float | None:
        """The share of its files that the newest reading of a split has read, from 0 to 1; `None`: not known."""
        return None

    @abstractmethod
    def problems(self) -> list[str]:
        """Problems that would stop a training, one sentence each. The check is cheap: no data file is opened."""

    @abstractmethod
    def examples(self, split: Split) -> "datasets.Dataset":
        """The examples of one split, with the columns of `example.example_features`.

        Raises:
            DataError: A file is missing or malformed.
        """

    def rows_of(self, split: Split) -> Iterator[Mapping[str, Any]]:
        """The examples of one split, one at a time: a task that can does not hold all of them in memory.

        Raises:
            DataError: A file is missing or malformed.
        """
        return iter(self.examples(split))

    @abstractmethod
    def fingerprint(self, split: Split) -> str:
        """A hash of everything that decides the split's examples: name, version, settings, content of the files."""


def fingerprint_of(*parts: object) -> str:
    """The hash of values whose `repr` states their whole content."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()
