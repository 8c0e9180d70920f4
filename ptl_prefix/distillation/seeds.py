"""What asks the questions of a self-study: six seed prompts, and instructions that are not about the document.

In: nothing. Out: `SEEDS`, whose prompts ask a model for a question about the text before them; `COMPLETION`; and
`GENERAL_INSTRUCTIONS`, which a teacher answers without a text, so that a student keeps what it could do.

Each seed names a subject that the text names, and begins the model's reply itself. A small model that is asked for a
question comments on the text instead, or asks what "the text" is about; one that has begun with "What", or with
"Describe the mill", ends with a question that can be understood without the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ptl_prefix.artifacts.self_study_facts import AskedKind


@dataclass(frozen=True)
class Seed:
    """One way to ask for questions.

    Args:
        kind: Name of the seed.
        one: What the model is asked for one question about `{subject}`.
        several: The same for `{number}` of them, of which the first is about `{subject}`.
        beginnings: Words that a question begins with, `{subject}` among them or not.
        is_question: Whether a question mark must end it.
        told: What the teacher is told after the question, and the student is not; empty for nothing.
    """

    kind: AskedKind
    one: str
    several: str
    beginnings: Sequence[str]
    is_question: bool = False
    told: str = ""

    def prompt(self, number: int, subject: str) -> str:
        """What the model is asked for a number of questions."""
        return (self.one if number == 1 else self.several).format(number=number, subject=subject)


SEEDS: Sequence[Seed] = (
    # A long answer of a small model is mostly its own invention, and a loss over it is mostly about that.
    Seed(
        "fact",
        "Ask one short question about {subject}. Write the question alone.",
        "Ask {number} short questions as a numbered list: the first about {subject}, the others about the rest.",
        ("What", "Which", "Who", "Where", "When", "How many", "How long", "What is {subject}", "What was {subject}"),
        is_question=True,
        told="Answer in a few words.",
    ),
    Seed(
        "question",
        "Ask one short question about {subject}. Write the question alone.",
        "Ask {number} short questions as a numbered list: the first about {subject}, the others about the rest.",
        ("What", "How", "Why", "When", "Which", "Who", "Where", "What is {subject}", "What does {subject}"),
        is_question=True,
    ),
    Seed(
        "summarising",
        "Ask someone to explain {subject}. Write the request alone.",
        "Write {number} requests to explain or summarise something, as a numbered list: the first is about {subject}.",
        ("Explain {subject}", "Describe {subject}", "Summarise what is known about {subject}"),
    ),
    Seed(
        "structuring",
        "Ask someone to list facts about {subject}. Write the request alone.",
        "Write {number} requests for a list, table or JSON of facts, as a numbered list: the first is about {subject}.",
        ("List the facts about {subject}", "Make a table about {subject}", "Name, as a list,", "List"),
    ),
    Seed(
        "use_case",
        "Ask one practical question about {subject}. Write the question alone.",
        "Ask {number} practical questions as a numbered list: the first is about {subject}.",
        (
            "What should I know about {subject}",
            "How can I find out more about {subject}",
            "What can I learn from {subject}",
            "Who could tell me more about {subject}",
            "How would I explain {subject}",
        ),
        is_question=True,
    ),
    Seed(
        "creative",
        "Ask someone to write something creative about {subject}. Write the request alone.",
        "Write {number} requests for something creative, as a numbered list: the first is about {subject}.",
        (
            "Write a short story about {subject}",
            "Write a poem about {subject}",
            "Imagine {subject}",
            "Compare {subject}",
        ),
    ),
)

COMPLETION = "Complete this sentence: {beginning} …"
"""What asks for the rest of a sentence of the document."""

GENERAL_INSTRUCTIONS: Sequence[str] = (
    "Explain why leaves change colour in autumn.",
    "How do I boil an egg so that the yolk stays soft?",
    "Write a short thank-you note to a neighbour who watered my plants.",
    "What is the difference between weather and climate?",
    "Name five animals that are active at night.",
    "Give me three ideas for a rainy afternoon with children.",
    "Translate into French: Where is the nearest bakery?",
    "What does a thermostat do?",
    "Rewrite this politely: Send me the file now.",
    "How many days does a leap year have, and why?",
    "Describe the taste of a ripe pear to someone who has never eaten one.",
    "Write a Python function that returns the largest number of a list.",
    "What should I pack for a weekend in the mountains?",
    "Explain to a child how a rainbow comes about.",
    "Suggest a name for a small bookshop by the sea.",
    "What is a metaphor? Give an example.",
    "Summarise the story of the hare and the tortoise in two sentences.",
    "How can I fall asleep more easily?",
    "Which is heavier, a kilogram of iron or a kilogram of feathers?",
    "Write four lines of verse about a lighthouse.",
    "Correct the grammar: She don't like going to school yesterday.",
    "What do bees need a hive for?",
    "Give two arguments for and two against working from home.",
    "How do I remove a coffee stain from a shirt?",
    "What is a prime number?",
    "List the steps of planting a tomato.",
    "Explain what a loan's interest is.",
    "Write a message that moves a meeting from Monday to Thursday.",
    "Why does ice float on water?",
    "Name three instruments with strings.",
    "What would you ask a baker about their work?",
    "Turn these words into a sentence: window, morning, bird, bread.",
    "How does a bicycle stay upright?",
    "Give me a simple recipe with lentils.",
    "What is the opposite of generous?",
    "Write a riddle whose answer is a shadow.",
    "How can two people divide a cake fairly?",
    "Explain the word 'algorithm' without technical terms.",
    "What is a good way to learn ten new words a day?",
    "Write a short dialogue between a cat and a letter carrier.",
    "Why do we have seasons?",
    "Name a few signs that a plant gets too much water.",
    "Sort these from small to large: planet, galaxy, moon, star.",
    "How do I politely decline an invitation?",
    "What is the purpose of a table of contents?",
    "Write a product description of a wooden pencil.",
    "Explain how to tie a simple knot.",
    "What happens to bread when it is toasted?",
    "Give three tips for a job interview.",
    "Is a tomato a fruit or a vegetable? Explain.",
    "Write a toast for a friend's fortieth birthday.",
    "What is the difference between a simile and a comparison?",
    "How does a vaccine protect a person?",
    "Describe a busy railway station in three sentences.",
    "Which questions should I ask before I rent a flat?",
    "Convert 90 minutes into hours.",
    "What is recycling good for?",
    "Write a haiku about snow.",
    "How do I start a conversation with a stranger on a train?",
    "Explain what a budget is, with a small example.",
    "Think of a title for a story about a lost umbrella.",
    "What makes a good listener?",
)
