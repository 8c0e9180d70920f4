"""Names that a document does not have."""

import pytest

from ptl_prefix.distillation.names import name_stems, unsupported_names

DOCUMENT = "The mill of Quincy Turner lies in Canada. O'Neill's daughter lives at the UNESCO house."


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("The mill belongs to Turner.", []),
        ("The mill belongs to Anna Smith.", ["Anna", "Smith"]),
        ("Wheels turn. Water flows.", []),
        ("Smith built it.", []),
        ("NASA built it.", ["NASA"]),
        ("It is UNESCO's.", []),
        ("It is near the Canadian border, at O'Neill's.", []),
        ("I think that I'm right, and I\u2019ve seen it.", []),
        ("Of both, the wheel.\nWater drives it.\n- Stone\n2. Wood\n* Iron", []),
        ('He said, "No smoking" (Not even here).', []),
        ("**Key Features**\n# The Old Mill\nMain Parts: wheel", []),
        ("1. **Wheel Size:** large, says Bob", ["Bob"]),
        ("It was Émile, and Émile again.", ["Émile"]),
        ("1820 Bob came.", []),
        ("", []),
    ],
)
def test_names_inside_of_sentences_are_those_of_the_document(text: str, names: list[str]) -> None:
    assert unsupported_names(text, name_stems(DOCUMENT)) == names
