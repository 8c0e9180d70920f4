"""Three short made-up documents, and questions on them, for `make demo-documents`.

In: nothing. Out: `DOCUMENTS`. Nothing in them exists, so no backbone can know an answer without the document. Each
sentence is a beginning and the rest of it: a backbone without a chat template is given the beginning, another one is
asked a question.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """One sentence of a document.

    Args:
        beginning: Beginning of the sentence, in place of a question.
        rest: The rest of it.
        question: Question that the sentence answers.
        answer: Answer to that question.
    """

    beginning: str
    rest: str
    question: str
    answer: str


@dataclass(frozen=True)
class DemoDocument:
    """A document and its questions.

    Args:
        name: Name of the document, and of its task on the server.
        facts: Its sentences, in their order.
    """

    name: str
    facts: Sequence[Fact]

    @property
    def text(self) -> str:
        """The document."""
        return " ".join(f"{fact.beginning} {fact.rest}" for fact in self.facts) + "\n"

    def questions(self, *, is_chat: bool) -> list[tuple[str, str]]:
        """Each question with its reference answer.

        Args:
            is_chat: Whether the backbone has a chat template.
        """
        if is_chat:
            return [(fact.question, fact.answer) for fact in self.facts]
        return [(fact.beginning, fact.rest) for fact in self.facts]


DOCUMENTS = (
    DemoDocument(
        "ferry",
        (
            Fact(
                "The Quillmere ferry leaves the north pier",
                "every forty minutes.",
                "How often does the Quillmere ferry leave the north pier?",
                "Every forty minutes.",
            ),
            Fact(
                "The last boat back to the island sails",
                "at half past nine.",
                "When does the last boat back to the island sail?",
                "At half past nine.",
            ),
            Fact(
                "A ticket for one crossing costs",
                "six crowns.",
                "What does a ticket for one crossing of the Quillmere ferry cost?",
                "Six crowns.",
            ),
            Fact(
                "Bicycles travel free of charge, but the ferry carries",
                "no more than twelve of them.",
                "How many bicycles does the Quillmere ferry carry at most?",
                "No more than twelve.",
            ),
            Fact(
                "Dogs must stay",
                "on the lower deck.",
                "Where must dogs stay on the ferry?",
                "On the lower deck.",
            ),
            Fact(
                "In fog the captain sounds the horn",
                "three times.",
                "How often does the captain sound the horn in fog?",
                "Three times.",
            ),
            Fact(
                "The hull of the ferry is painted",
                "dark green.",
                "Which colour is the hull of the ferry painted?",
                "Dark green.",
            ),
            Fact(
                "When the ice is thick, the ferry is replaced by",
                "a sledge with a bell.",
                "What replaces the ferry when the ice is thick?",
                "A sledge with a bell.",
            ),
        ),
    ),
    DemoDocument(
        "mill",
        (
            Fact(
                "The Harrowick mill grinds",
                "rye and chestnuts.",
                "What does the Harrowick mill grind?",
                "Rye and chestnuts.",
            ),
            Fact(
                "Its wheel is made of",
                "larch wood.",
                "Which wood is the wheel of the mill made of?",
                "Larch wood.",
            ),
            Fact(
                "The wheel turns eleven times",
                "in a minute.",
                "In which time does the wheel of the mill turn eleven times?",
                "In a minute.",
            ),
            Fact(
                "Visitors may see the millstones",
                "on Thursday mornings.",
                "When may visitors see the millstones?",
                "On Thursday mornings.",
            ),
            Fact(
                "The older millstone was cut from",
                "red sandstone.",
                "Which stone was the older millstone cut from?",
                "Red sandstone.",
            ),
            Fact(
                "Flour is sold in bags of",
                "four kilograms.",
                "How heavy are the bags in which the mill sells flour?",
                "Four kilograms.",
            ),
            Fact(
                "The miller stops the wheel when the brook is",
                "lower than the white mark.",
                "When does the miller stop the wheel?",
                "When the brook is lower than the white mark.",
            ),
            Fact(
                "In the attic of the mill live",
                "two barn owls.",
                "Which animals live in the attic of the mill?",
                "Two barn owls.",
            ),
        ),
    ),
    DemoDocument(
        "archive",
        (
            Fact(
                "The seed archive of Tamblin keeps",
                "nine hundred kinds of beans.",
                "What does the seed archive of Tamblin keep?",
                "Nine hundred kinds of beans.",
            ),
            Fact(
                "Its vault is cooled to",
                "minus twenty degrees.",
                "To which temperature is the vault of the seed archive cooled?",
                "Minus twenty degrees.",
            ),
            Fact(
                "Each packet carries a label of",
                "yellow linen.",
                "What is the label of each packet of seeds made of?",
                "Yellow linen.",
            ),
            Fact(
                "Gardeners may borrow seeds",
                "for one summer.",
                "For how long may gardeners borrow seeds?",
                "For one summer.",
            ),
            Fact(
                "Whoever borrows a packet returns",
                "twice as many seeds.",
                "How many seeds does a gardener return to the archive?",
                "Twice as many as were borrowed.",
            ),
            Fact(
                "A sample is tested by sowing it in",
                "a tray of wet sand.",
                "What is a sample of seeds sown in for a test?",
                "A tray of wet sand.",
            ),
            Fact(
                "The rarest bean in the vault is called",
                "the Tamblin lantern.",
                "What is the rarest bean in the vault called?",
                "The Tamblin lantern.",
            ),
            Fact(
                "The door of the vault opens with",
                "two brass keys.",
                "What does the door of the vault open with?",
                "Two brass keys.",
            ),
        ),
    ),
)
