"""Finds data that a tokenizer does not know, such as Chinese text under a tokenizer of English.

In: the ids of a split's sources and targets. Out: a sentence, if nearly all of what they say is the unknown token. A
model would be trained on the same id again and again, and could never write such a target.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ptl_prefix.backbones.prompting import Prompter

_MOST_UNKNOWN = 0.9
"""Share of unknown ids above which a split is refused; a few foreign words are no reason."""


@dataclass
class _Count:
    """Numbers of ids: the unknown ones, and those that stand for letters or digits."""

    unknown: int = 0
    known: int = 0

    @property
    def share(self) -> float:
        return self.unknown / max(self.unknown + self.known, 1)


class UnknownIds:
    """Counts the unknown ids of a split.

    Spaces and punctuation count as nothing: some tokenizers put them around unknown words of every script.

    Args:
        prompter: Encoder of the split.
    """

    def __init__(self, prompter: Prompter) -> None:
        self._prompter = prompter
        self._counts = {"sources": _Count(), "targets": _Count()}

    def add(self, sources: Iterable[Sequence[int]], targets: Iterable[Sequence[int]]) -> None:
        """Count the ids of some sources and targets."""
        if (unknown_id := self._prompter.unknown_id) is None:
            return
        for count, texts in zip(self._counts.values(), (sources, targets), strict=True):
            for ids in texts:
                num_unknown = ids.count(unknown_id)
                count.unknown += num_unknown
                # A text without unknown ids is not looked at more closely: most texts of most data are of this kind.
                count.known += sum(map(self._prompter.stands_for_letters, ids)) if num_unknown else len(ids)

    def problem(self, split: str, task_name: str) -> str | None:
        """Why the split cannot be trained on, as a sentence; `None` if it can be."""
        for name, count in self._counts.items():
            if count.share > _MOST_UNKNOWN:
                return (
                    f"The {name} of the {split} split of {task_name} must be text that the backbone's tokenizer knows, "
                    f"but {_percent(count.share)} of their ids, spaces and punctuation aside, are its "
                    "unknown token; choose a backbone whose tokenizer knows this language, or check the encoding of "
                    "the data."
                )
        return None


def _percent(share: float) -> str:
    return "all" if share == 1 else f"{min(share, 0.999):.1%}"
