"""What a teacher predicts is what a forward pass predicts."""

import math

import pytest
import torch
from torch.testing import assert_close

from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.distillation.teacher import most_likely, teacher_tokens

PROMPT, ANSWER = [5, 70, 33, 9, 120, 44, 8, 63], [17, 30, 260, 1]


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma3_text", "qwen2"])
def test_log_probabilities_equal_those_of_a_forward_pass_in_float64(family: str, tiny_folders: dict) -> None:  # type: ignore[type-arg]
    backbone = load_backbone(str(tiny_folders[family]), name=family, dtype="float32")

    found = teacher_tokens(backbone, PROMPT, ANSWER, top_k=20, top_mass=1.0)

    backbone.model.double()
    with torch.no_grad():
        logits = backbone.model(torch.tensor([PROMPT + ANSWER]), use_cache=False).logits[0]
    expected = logits[len(PROMPT) - 1 : -1].log_softmax(-1).topk(20)
    assert found.token_ids.tolist() == ANSWER
    assert found.top_log_probs.dtype == torch.float32
    assert_close(found.top_log_probs.double(), expected.values, rtol=1e-4, atol=1e-4)
    assert found.top_ids[:, 0].tolist() == expected.indices[:, 0].tolist()


def test_fewer_ids_are_kept_where_they_have_the_mass_together() -> None:
    probabilities = torch.tensor([[0.6, 0.3, 0.06, 0.04], [0.995, 0.003, 0.001, 0.001], [0.25, 0.25, 0.25, 0.25]])

    ids, log_probs = most_likely(probabilities.log(), top_k=3, top_mass=0.9)

    assert (ids >= 0).sum(dim=1).tolist() == [2, 1, 3]
    assert ids[0].tolist() == [0, 1, -1]
    assert_close(log_probs[0].exp(), torch.tensor([0.6, 0.3, 0.0]))
    assert log_probs[1, 1] == -math.inf


def test_a_vocabulary_may_be_smaller_than_the_ids_that_are_kept() -> None:
    ids, _ = most_likely(torch.tensor([[0.5, 0.5]]).log(), top_k=20, top_mass=0.99)

    assert ids.shape == (1, 2)
