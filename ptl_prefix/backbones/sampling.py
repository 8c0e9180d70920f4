"""Draws a token from logits.

In: the logits of one row, and the row's own random generator. Out: a token. A row's tokens do not depend on the rows
beside it.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def sample_token(
    logits: Float[Tensor, " vocabulary"], *, temperature: float, top_p: float, random: torch.Generator
) -> int:
    """A token drawn from the most likely ones that together have the probability `top_p`.

    Args:
        logits: Logits of the next token.
        temperature: Softmax temperature, above 0.
        top_p: Probability mass of nucleus sampling; 1 samples from all tokens.
        random: Generator on the CPU.
    """
    weights = (logits.float().cpu() / temperature).softmax(dim=-1)
    if top_p < 1:
        ordered, places = weights.sort(descending=True)
        before = ordered.cumsum(dim=-1) - ordered  # the most likely token always stays
        weights = weights.scatter(0, places[before >= top_p], 0.0)
    return int(torch.multinomial(weights, 1, generator=random))
