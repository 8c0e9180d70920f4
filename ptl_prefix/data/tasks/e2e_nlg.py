"""E2E NLG (Novikova et al., 2017): restaurants' attributes to a description.

In: the released `trainset.csv`, `devset.csv` and `testset_w_refs.csv`, columns `mr,ref`, from a folder or by hub name.
Out: one example per distinct input, with every reference that the files give it, linearised as in the code of Li &
Liang (2021): `name[Blue Spice], eatType[pub]` becomes `name : Blue Spice | Type : pub`.

Equal to the authors' files and code: the attributes' new names (`Type`, `price`, `family friendly`), their order, ` : `
and ` | `, the bos between source and target, one prompt per distinct input when testing. Different: their copy of the
texts was tokenised further (`more than £ 30`), ours keeps the released text; their code puts a space before the source
and one before the closing eos, ours none.

Measured by BLEU, NIST, METEOR, ROUGE-L and CIDEr over all references, and by slot errors.
"""

import re
from collections.abc import Iterable

from ptl_prefix.data.example import Example, merged
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
    """Restaurants' attributes to a description, with one or many references. Settings as in `ReleasedTask`."""

    version = "1"
    licence = "CC BY-SA 4.0"
    metrics = ("bleu", "nist", "meteor", "rouge_l", "cider", "slot_error_rate")
    released_files = ("trainset.csv", "devset.csv", "testset_w_refs.csv")

    __init__ = settings_from("task/e2e_nlg")(ReleasedTask.__init__)

    def all_examples(self, split: Split) -> Iterable[Example]:
        """One example per distinct input, in the order in which inputs first appear."""
        return merged(super().all_examples(split))

    def example(self, record: FileRow, split: Split) -> Example:
        """One input with one of its references."""
        hub_columns = ("meaning_representation", "human_reference")
        columns = hub_columns if hub_columns[0] in record.cells else ("mr", "ref")
        return Example(linearised(record.text(columns[0]), record.place), (record.text(columns[1]),))


def linearised(meaning: str, place: str) -> str:
    """`name[Blue Spice], eatType[pub]` as `name : Blue Spice | Type : pub`.

    Raises:
        DataError: It is not of that form, or has an attribute that E2E does not.
    """
    parts = []
    for written in meaning.split(", "):
        # Values hold no ", ": where one did, the rest of it would not be an attribute and is refused below.
        match = _ATTRIBUTE.fullmatch(written.strip())
        if match is None or match[1] not in _RENAMED:
            raise DataError(
                f"{place}: an input must be like 'name[Blue Spice], eatType[pub]' with attributes of "
                f"{', '.join(_RENAMED)}, but has '{written}'; mend it."
            )
        parts.append(f"{_RENAMED[match[1]]} : {match[2]}")
    return " | ".join(parts)
