"""Decoding settings, stored in run records and in bundles, and the same for every method."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

LEAST_TEMPERATURE = 1e-4
"""A lower temperature overflows float32 when logits are divided by it."""

# The upper bounds keep a bundle from anyone from asking for memory or seeds that no machine has.
MaxNewTokens = Annotated[int, Ge(1), Le(2**20)]
MinNewTokens = Annotated[int, Ge(0), Le(2**20)]
NumBeams = Annotated[int, Ge(1), Le(1000)]
LengthPenalty = Annotated[float, Ge(-100), Le(100)]
NgramSize = Annotated[int, Ge(0), Le(2**20)]
TopP = Annotated[float, Gt(0), Le(1)]
SamplingSeed = Annotated[int, Ge(0), Le(2**63 - 1)]
"""Ranges of the settings, which those of commands share."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Decoding settings, with the names of transformers' `GenerationConfig`.

    Args:
        max_new_tokens: Largest number of generated tokens, the stop token included.
        min_new_tokens: Smallest number of generated tokens.
        num_beams: Number of beams; 1 is greedy decoding or sampling.
        length_penalty: Exponent of the length in a beam's score.
        no_repeat_ngram_size: Size of the n-grams that may not occur twice; 0 allows all repetitions.
        do_sample: Whether tokens are sampled, instead of choosing the most likely one.
        temperature: Softmax temperature of sampling.
        top_p: Probability mass of nucleus sampling; 1 samples from all tokens.
        seed: Seed of sampling.
    """

    max_new_tokens: MaxNewTokens
    min_new_tokens: MinNewTokens
    num_beams: NumBeams
    length_penalty: LengthPenalty
    no_repeat_ngram_size: NgramSize
    do_sample: bool
    temperature: Annotated[float, Gt(0)]
    top_p: TopP
    seed: SamplingSeed

    def problems(self) -> list[str]:
        """Settings that no generation can follow, beyond the type and range of each."""
        problems = self.length_problems()
        # Bundles may hold less: their settings are read without this check.
        if self.temperature < LEAST_TEMPERATURE:
            problems.append(
                f"`generation.temperature` must be >= {LEAST_TEMPERATURE}, as logits are divided by it in float32, but "
                f"is {self.temperature}; for the most likely token, set generation.do_sample=false."
            )
        return problems

    def length_problems(self) -> list[str]:
        """Lengths that contradict each other, as when a change of a bundle's decoding sets only one of them."""
        if self.min_new_tokens <= self.max_new_tokens:
            return []
        return [
            f"`min_new_tokens` must be <= `max_new_tokens`, but is {self.min_new_tokens} with "
            f"max_new_tokens={self.max_new_tokens}; change one of them."
        ]
