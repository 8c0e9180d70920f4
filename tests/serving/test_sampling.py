"""The choice of tokens: greedy, sampled, and independent of the requests beside it."""

from collections import Counter
from typing import Any

import pytest
import torch

from ptl_prefix.serving.request import Sampling
from ptl_prefix.serving.sampling import TokenSampler, choose_tokens

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def sampler(**changes: Any) -> TokenSampler:
    settings: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 1.0, "seed": 0}
    return TokenSampler(Sampling(**(settings | changes)))


def drawn(number: int, **changes: Any) -> Counter[int]:
    under_test = sampler(**changes)
    return Counter(under_test.sample(LOGITS) for _ in range(number))


def test_temperature_0_takes_the_most_likely_token() -> None:
    assert choose_tokens(torch.stack([LOGITS, LOGITS.flip(0)]), [sampler(temperature=0.0)] * 2) == [0, 3]


def test_tokens_are_drawn_by_their_probability() -> None:
    counts = drawn(4000)

    assert [counts[token] / 4000 for token in range(4)] == pytest.approx(LOGITS.exp().tolist(), abs=0.03)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.4, {0}), (0.5, {0}), (0.79, {0, 1}), (0.81, {0, 1, 2}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_smallest_set_that_has_the_mass(top_p: float, kept: set[int]) -> None:
    assert set(drawn(2000, top_p=top_p)) == kept


def test_a_low_temperature_sharpens() -> None:
    assert drawn(500, temperature=0.01) == {0: 500}


def test_tokens_depend_on_the_seed_and_not_on_the_rows_beside() -> None:
    alone = sampler(seed=7)
    first = [choose_tokens(LOGITS[None], [alone])[0] for _ in range(20)]
    crowd = [sampler(seed=3), sampler(seed=7), sampler(temperature=0.0)]
    second = [choose_tokens(LOGITS.expand(3, -1), crowd)[1] for _ in range(20)]
    other = sampler(seed=8)

    assert first == second
    assert first != [other.sample(LOGITS) for _ in range(20)]


def test_logprobs_are_those_of_the_model() -> None:
    found = sampler(temperature=0.3, num_logprobs=2).logprobs(LOGITS, 3)

    assert found is not None
    assert found.logprob == pytest.approx(float(LOGITS[3]))
    assert [token for token, _ in found.top] == [0, 1]
    assert [value for _, value in found.top] == pytest.approx(LOGITS[:2].tolist())
    assert sampler().logprobs(LOGITS, 3) is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_allowed_tokens_are_chosen_and_the_logits_stay(temperature: float) -> None:
    logits = torch.stack([LOGITS, LOGITS])
    rows = [sampler(temperature=temperature, top_p=0.9), sampler(temperature=0.0)]

    found = [choose_tokens(logits, rows, [{2, 3}, None]) for _ in range(40)]

    assert {first for first, _ in found} <= {2, 3}
    assert temperature or {first for first, _ in found} == {2}
    assert {second for _, second in found} == {0}
    assert torch.equal(logits, torch.stack([LOGITS, LOGITS]))
