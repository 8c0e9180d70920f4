"""Chooses the next token of each row.

In: one row of logits per request. Out: a token per request, with log-probabilities where they were asked for. Each
request has its own random generator, so its tokens do not depend on the requests beside it.
"""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ptl_prefix.backbones.sampling import sample_token
from ptl_prefix.serving.request import Sampling, TokenLogprobs


class TokenSampler:
    """The choice of tokens for one request.

    Args:
        sampling: Settings of the request.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = torch.Generator().manual_seed(sampling.seed)

    def sample(self, logits: Float[Tensor, " vocabulary"]) -> int:
        """A token drawn from the most likely ones that together have the probability `top_p`."""
        temperature, top_p = self.sampling.temperature, self.sampling.top_p
        return sample_token(logits, temperature=temperature, top_p=top_p, random=self._random)

    def logprobs(self, logits: Float[Tensor, " vocabulary"], token: int) -> TokenLogprobs | None:
        """The log-probabilities that the request asked for, of the model itself: temperature does not change them."""
        if self.sampling.num_logprobs is None:
            return None
        found = logits.float().log_softmax(dim=-1)
        top = found.topk(self.sampling.num_logprobs)
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return TokenLogprobs(token, float(found[token]), tuple(pairs))


def choose_tokens(
    logits: Float[Tensor, "rows vocabulary"],
    samplers: Sequence[TokenSampler],
    allowed: Sequence[Collection[int] | None] | None = None,
) -> list[int]:
    """The next token of each row.

    Args:
        logits: Logits of each row; they are not changed.
        samplers: The choice of each row.
        allowed: Ids that may come next in each row; `None` for all, in one row or in every one.
    """
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    for index, (sampler, ids) in enumerate(zip(samplers, allowed or [None] * len(samplers), strict=True)):
        row = logits[index] if ids is None else _only(logits[index], ids)
        if sampler.sampling.temperature > 0:
            tokens[index] = sampler.sample(row)
        elif ids is not None:
            tokens[index] = int(row.argmax())
    return tokens


def _only(logits: Float[Tensor, " vocabulary"], ids: Collection[int]) -> Float[Tensor, " vocabulary"]:
    """Logits of which only some tokens can be chosen."""
    places = torch.tensor(sorted(ids), device=logits.device)
    return torch.full_like(logits, -torch.inf).index_copy(0, places, logits[places])
