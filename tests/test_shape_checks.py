"""The checks of types and axes are on while tests run, and change nothing that tests look at."""

import random
from collections.abc import Sequence

import pytest
import torch
from support.shape_checks import checked

from ptl_prefix.backbones.model_inputs import ModelInputs, left_padded


def test_a_wrong_type_and_axes_that_disagree_are_errors() -> None:
    with pytest.raises(Exception, match="Type-check error"):
        left_padded([[1, 2]], pad_id="0")  # type: ignore[arg-type]
    with pytest.raises(Exception, match="Type-check error"):
        ModelInputs(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4, dtype=torch.long))


def test_checking_draws_from_nobody_s_random_state() -> None:
    @checked
    def first(numbers: Sequence[int]) -> int:
        return numbers[0]

    before = random.getstate()

    first([1, 2, 3])

    assert random.getstate() == before
