"""Routing facts of made-up tasks, whose texts are drawn from small vocabularies."""

import random
from collections.abc import Sequence

import numpy as np

from ptl_prefix.artifacts.ngram_counts import count_ngrams, one_row, total_ngrams
from ptl_prefix.artifacts.routing_facts import RoutingFacts, StateFacts

FRUIT = "apple pear plum cherry grape melon lemon orange the of and in"
TOOLS = "hammer saw drill nail wrench screw bolt plane the of and in"
STARS = "comet moon orbit planet nebula galaxy crater eclipse the of and in"


def texts(vocabulary: str, count: int, *, seed: int = 0, words: int = 8) -> list[str]:
    """Texts of words of a vocabulary."""
    rng = random.Random(f"{vocabulary} {seed}")
    return [" ".join(rng.choices(vocabulary.split(), k=words)) for _ in range(count)]


def facts_of(training: Sequence[str], validation: Sequence[str], states: StateFacts | None = None) -> RoutingFacts:
    """The facts of a task with these inputs."""
    totals, num_inputs = total_ngrams(training)
    return RoutingFacts(
        num_inputs=num_inputs, trained=one_row(totals), validation=count_ngrams(validation), states=states
    )


def made_up_facts(vocabulary: str, *, num_validation: int = 40) -> RoutingFacts:
    """The facts of a task whose texts are of one vocabulary."""
    return facts_of(texts(vocabulary, 200), texts(vocabulary, num_validation, seed=1))


def made_up_states(centre: float, *, width: int = 6, num_validation: int = 40, seed: int = 0) -> StateFacts:
    """Hidden states around a centre, with deviation 1."""
    rng = np.random.default_rng(seed)
    own = rng.normal(centre, 1, (200 + num_validation, width)).astype(np.float32)
    return StateFacts(mean=own[:200].mean(axis=0), deviation=own[:200].std(axis=0), validation=own[200:])
