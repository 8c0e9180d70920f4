"""E2E NLG (Novikova et al., 2017): describe a restaurant from its attributes.

In: the released `trainset.csv`, `devset.csv` and `testset_w_refs.csv`, columns `mr,ref`, or a copy on the hub. Out: one
example per distinct input with all its references, linearised as in the code of Li & Liang (2021):
`name[Blue Spice], eatType[pub]` becomes `name : Blue Spice | Type : pub`.

As in the authors' files and code: the renamed attributes (`Type`, `price`, `family friendly`), their order, the
separators ` : ` and ` | `, the bos token between source and target, and one test prompt per distinct input. Unlike
them: the texts are those of the release, while their copy was tokenised further (`more than £ 30`), and no space is put
before the source or the closing eos.

Metrics: BLEU, NIST, METEOR, ROUGE-L and CIDEr over all references, and the slot error rate.
"""

import re
from collections.abc import Iterable

from ptl_prefix.data.example import Example, merge_by_source
from ptl_prefix.data.file_rows import FileRow
from ptl_prefix.data.released_task import ReleasedTask
from ptl_prefix.data.task import Split
from ptl_prefix.errors import DataError
from ptl_prefix.settings import settings_from

_RENAMED = {
    "name": "name",
    "eatType": "Type",
    "food": "food",
    "priceRange": "price",
    "customer rating": "customer rating",
    "area": "area",
    "familyFriendly": "family friendly",
    "near": "near",
}
_ATTRIBUTE = re.compile(r"([^\[\],]+)\[([^\[\]]+)\]")


class E2ENLG(ReleasedTask):
    """Generation of a description from attributes. Its settings are those of `ReleasedTask`."""

    version = "1"
    licence = "CC BY-SA 4.0"
    metrics = ("bleu", "nist", "meteor", "rouge_l", "cider", "slot_error_rate")
    released_files = ("trainset.csv", "devset.csv", "testset_w_refs.csv")

    __init__ = settings_from("task/e2e_nlg")(ReleasedTask.__init__)

    def all_examples(self, split: Split) -> Iterable[Example]:
        """One example per distinct input, in the order in which inputs first appear."""
        return merge_by_source(super().all_examples(split))

    def example(self, row: FileRow, split: Split) -> Example:
        """The example of one row: an input with one of its references."""
        hub_columns = ("meaning_representation", "human_reference")
        columns = hub_columns if hub_columns[0] in row.cells else ("mr", "ref")
        return Example(linearise(row.text(columns[0]), row.place), (row.text(columns[1]),))


def linearise(meaning: str, place: str) -> str:
    """Turn `name[Blue Spice], eatType[pub]` into `name : Blue Spice | Type : pub`.

    Raises:
        DataError: The input is not of that form, or has an attribute that E2E does not have.
    """
    parts = []
    for written in meaning.split(", "):
        # No value of the release holds ", ". The rest of one that did would be refused below, as no attribute.
        match = _ATTRIBUTE.fullmatch(written.strip())
        if match is None or match[1] not in _RENAMED:
            raise DataError(
                f"{place}: an input must be like 'name[Blue Spice], eatType[pub]' with attributes of "
                f"{', '.join(_RENAMED)}, but has '{written}'; correct it."
            )
        parts.append(f"{_RENAMED[match[1]]} : {match[2]}")
    return " | ".join(parts)
