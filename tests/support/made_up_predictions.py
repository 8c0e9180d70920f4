"""Generated predictions: single ones, or random ones from a small vocabulary, so that some n-grams match."""

import random

from ptl_prefix.artifacts.predictions import Prediction

WORDS = (
    "the a pub restaurant near river The Eagle in city centre serves £20 family-friendly isn't 3.5 , cheap food and it"
).split()


def prediction(hypothesis: str, *references: str, **more: object) -> Prediction:
    """A prediction with the given texts and default values elsewhere."""
    return Prediction(**{"id": "0", "source": "s", "references": references, "hypothesis": hypothesis, **more})  # type: ignore[arg-type]


def fit_predictions(metric: str, count: int) -> list[Prediction]:
    """Random predictions that the metric applies to."""
    if metric in ("accuracy", "macro_f1"):
        return random_labels(count)
    if metric == "slot_error_rate":
        return random_restaurants(count)
    return random_predictions(count)


def random_labels(count: int, *, seed: int = 0) -> list[Prediction]:
    """Labels, most of which are right; some are not in the label set."""
    rng = random.Random(seed)
    labels = ["card_arrival", "lost_card", "top_up", "fees"]
    expected = [rng.choice(labels) for _ in range(count)]
    predicted = [label if rng.random() < 0.6 else rng.choice([*labels, "", "no such label"]) for label in expected]
    return [
        prediction(mine, theirs, id=str(n)) for n, (mine, theirs) in enumerate(zip(predicted, expected, strict=True))
    ]


def random_restaurants(count: int, *, seed: int = 0) -> list[Prediction]:
    """Inputs of E2E with outputs, some of which miss, add or repeat a value."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        food, area = rng.choice(["French", "Italian", "Chinese"]), rng.choice(["riverside", "city centre"])
        phrase = rng.choice(
            [f"serving {food} food", "", f"serving {food} and Indian food", f"with {food} and {food} food"]
        )
        made.append(
            prediction(
                f"The Mill is a pub in the {area} {phrase}.",
                f"The Mill is a pub serving {food} food in the {area}.",
                source=f"name : The Mill | Type : pub | food : {food} | area : {area}",
                id=str(number),
            )
        )
    return made


def random_predictions(count: int, *, seed: int = 0, num_references: tuple[int, int] = (1, 4)) -> list[Prediction]:
    """Hypotheses of several lengths, one of them empty: their first references with some words changed."""
    rng = random.Random(seed)

    def sentence(length: int) -> list[str]:
        return [rng.choice(WORDS) for _ in range(length)]

    made = []
    for number in range(count):
        references = [sentence(rng.randint(4, 14)) for _ in range(rng.randint(*num_references))]
        hypothesis = [word if rng.random() < 0.7 else rng.choice(WORDS) for word in references[0]]
        texts = [" ".join(words) + "." for words in references]
        made.append(
            Prediction(
                id=str(number),
                source=f"name : {number}",
                references=tuple(texts),
                hypothesis="" if number == count // 2 else " ".join(hypothesis[rng.randint(0, 2) :]) + ".",
                values=(hypothesis[0], "absent"),
                group=rng.choice(["seen", "unseen"]),
            )
        )
    return made
