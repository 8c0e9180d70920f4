"""A needle test: made-up facts at several depths of a filler document, and questions for them.

In: a length, depths and a seed. Out: a document and a file of questions, to be distilled and asked as any other. The
filler is a made-up log of a harbour, of any length and in one voice: nothing but its words tells a needle from it. The
facts are drawn, so no model can know them.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.data.question_file import NEEDLE, Question, write_questions

DOCUMENT_FILE, QUESTIONS_FILE = "document.txt", "questions.jsonl"
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)

_PLACES = (
    "the lighthouse",
    "the customs house",
    "the sail loft",
    "the pilot station",
    "the fish market",
    "the rope yard",
    "the signal tower",
    "the ferry office",
    "the ice house",
    "the boat shed",
)
_SHIPS = ("Aurora", "Merlin", "Good Hope", "Sea Fern", "Tern", "North Star", "Calypso", "Linnet", "Heron", "Marigold")
_PORTS = ("Riga", "Bergen", "Cadiz", "Leith", "Gdansk", "Porto", "Turku", "Hull", "Bremen", "Nantes")
_CARGOES = ("timber", "salt", "herring", "coal", "wool", "barley", "slate", "hemp", "tar", "iron")
_SENTENCES = (
    "The {ship} came in from {port} with {number} tons of {cargo}.",
    "The {ship} left for {port} on the morning tide with {cargo} in her hold.",
    "{number} barrels of {cargo} from {port} were weighed on the quay and found in order.",
    "The mate of the {ship} asked for {number} fathoms of new line.",
    "Fog lay over the bay, and the {ship} waited for {number} hours before she could come in from {port}.",
    "The crane broke down while the {ship} was being unloaded, and {number} tons of {cargo} stayed aboard overnight.",
)


@dataclass(frozen=True, kw_only=True)
class NeedleTest:
    """A document with needles.

    Args:
        document: Its text.
        questions: One question for each needle, in the order of the depths.
    """

    document: str
    questions: tuple[Question, ...]

    def write(self, folder: str | Path) -> None:
        """Write `document.txt` and `questions.jsonl` into a folder."""
        write_atomically(Path(folder, DOCUMENT_FILE), self.document)
        write_questions(Path(folder, QUESTIONS_FILE), self.questions)


def needle_test(*, num_sentences: int, depths: Sequence[float] = DEPTHS, seed: int = 0) -> NeedleTest:
    """Make a document and its questions.

    Args:
        num_sentences: Number of sentences of the filler; one has about 20 tokens.
        depths: Place of each needle, from 0 (before the first sentence) to 1 (after the last one).
        seed: Seed of the filler and of the facts.

    Raises:
        ValueError: There are more depths than places for a needle, or one is not from 0 to 1.
    """
    if not 1 <= len(depths) <= len(_PLACES) or not all(0 <= depth <= 1 for depth in depths):
        raise ValueError(f"`depths` must be 1 to {len(_PLACES)} numbers from 0 to 1, but are {list(depths)}.")
    if num_sentences < 1:
        raise ValueError(f"`num_sentences` must be >= 1, but is {num_sentences}.")
    drawn = random.Random(seed)  # no secret
    filler = [_sentence(drawn) for _ in range(num_sentences)]
    places = drawn.sample(_PLACES, len(depths))
    # Four digits each, and no two alike.
    codes = [str(code) for code in drawn.sample(range(1000, 10000), len(depths))]
    needles = [f"The code of the safe in {place} is {code}." for place, code in zip(places, codes, strict=True)]
    # From the end on, so that an inserted needle moves no other one.
    for depth, needle in sorted(zip(depths, needles, strict=True), reverse=True):
        filler.insert(round(depth * num_sentences), needle)
    questions = tuple(
        Question(
            id=f"needle-{number}-at-{depth:.0%}",
            question=f"What is the code of the safe in {place}?",
            answers=(code,),
            kind=NEEDLE,
        )
        for number, (depth, place, code) in enumerate(zip(depths, places, codes, strict=True), start=1)
    )
    return NeedleTest(document=_paragraphs(filler), questions=questions)


def _sentence(drawn: random.Random) -> str:
    return drawn.choice(_SENTENCES).format(
        ship=drawn.choice(_SHIPS),
        port=drawn.choice(_PORTS),
        cargo=drawn.choice(_CARGOES),
        number=drawn.randint(2, 90),
    )


def _paragraphs(sentences: Sequence[str], length: int = 6) -> str:
    parts = [" ".join(sentences[start : start + length]) for start in range(0, len(sentences), length)]
    return "\n\n".join(parts) + "\n"
