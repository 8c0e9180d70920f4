"""The time of an answer under several conditions.

In: conditions that are held open together, and the whole prompt of one question under each. Out: seconds until the
first token and tokens per second, as medians over rounds. In each round all conditions take their turn, so that what
else the machine does falls on all of them.
"""

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.document_report import AnswerCost
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.model_inputs import prompt_batch
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.methods.method import Method
from ptl_prefix.settings import defaults_of

_NUM_NEW_TOKENS = 33


@dataclass(frozen=True)
class TimedPrompt:
    """One question under one condition.

    Args:
        method: Method that holds the context or the prefix.
        rest: Ids that are read after what the method holds.
        bare: Method that reads the whole prompt; `method` itself where nothing was read before.
        whole: Ids of the whole prompt.
    """

    method: Method
    rest: list[int]
    bare: Method
    whole: list[int]


def measure_costs(
    backbone: Backbone, prompter: Prompter, prompts: Mapping[str, TimedPrompt], *, rounds: int
) -> dict[str, AnswerCost]:
    """The costs by condition; a round more is run first, and not counted.

    Args:
        backbone: Frozen model.
        prompter: Encoder of the prompts.
        prompts: One question under each condition, by its name; all methods are attached.
        rounds: Number of rounds that count.
    """
    seconds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in prompts}
    for _ in range(rounds + 1):
        for name, one in prompts.items():
            seconds[name].append(_times(backbone, prompter, one))
    return {name: _cost(of_rounds[1:]) for name, of_rounds in seconds.items()}


def _times(backbone: Backbone, prompter: Prompter, one: TimedPrompt) -> tuple[float, float, float]:
    """Seconds of the first token read whole, of the first token after what is held, and of all tokens after that."""
    whole = _seconds(backbone, prompter, one.bare, one.whole, 1)
    cached = whole if one.bare is one.method else _seconds(backbone, prompter, one.method, one.rest, 1)
    return whole, cached, _seconds(backbone, prompter, one.method, one.rest, _NUM_NEW_TOKENS)


def _cost(of_rounds: Sequence[tuple[float, float, float]]) -> AnswerCost:
    whole, cached, every = map(statistics.median, zip(*of_rounds, strict=True))
    # A clock too coarse for a tiny model gives no time at all.
    return AnswerCost(
        first_token_s=whole,
        first_token_cached_s=cached,
        tokens_per_s=(_NUM_NEW_TOKENS - 1) / max(every - cached, 1e-9),
    )


def _seconds(backbone: Backbone, prompter: Prompter, method: Method, prompt: list[int], number: int) -> float:
    """Seconds in which a prompt is read, and so many tokens are generated."""
    greedy = Decoding(**defaults_of("generation/greedy"))
    decoding = dataclasses.replace(greedy, max_new_tokens=number, min_new_tokens=number)
    inputs = prompt_batch([prompt], backbone.padding(prompter)).to(backbone.device)
    started = time.perf_counter()
    with backbone.slots.exclusive():
        # The ids that are returned are on the CPU: a GPU has finished by then.
        generate(backbone, method.condition(inputs), decoding, prompter.stop_ids)
        backbone.slots.clear()
    return time.perf_counter() - started
