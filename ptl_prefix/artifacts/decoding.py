"""How text is decoded: one record, the same for every method, carried by the run's record and by the bundle."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Settings of one decoding; names are those of transformers' `GenerationConfig`.

    Args:
        max_new_tokens: Most tokens to write, the stop token included.
        min_new_tokens: Fewest tokens to write.
        num_beams: Beams; 1 is greedy or sampling.
        length_penalty: Exponent of the length in a beam's score.
        no_repeat_ngram_size: No n-gram of this size twice; 0 allows all.
        do_sample: Sample instead of taking the most likely token.
        temperature: Softmax temperature of sampling.
        top_p: Nucleus mass of sampling.
        seed: Seed of sampling.
    """

    max_new_tokens: Annotated[int, Ge(1)]
    min_new_tokens: Annotated[int, Ge(0)]
    num_beams: Annotated[int, Ge(1)]
    length_penalty: float
    no_repeat_ngram_size: Annotated[int, Ge(0)]
    do_sample: bool
    temperature: Annotated[float, Gt(0)]
    top_p: Annotated[float, Gt(0), Le(1)]
    seed: Annotated[int, Ge(0)]
