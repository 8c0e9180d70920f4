"""Likelihood of the references: loss, perplexity and bits per character.

In: a backbone, a method and examples. Out: one sum of negative log-likelihoods, in three units. Nats per token and
perplexity compare methods on one backbone; bits per character compare backbones, whose tokenizers differ.
"""

import math
from collections.abc import Mapping

import torch

from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.batches import pair_batches
from ptl_prefix.data.encoding import encode_pairs
from ptl_prefix.evaluation.decode import Rows
from ptl_prefix.evaluation.loss import summed_loss
from ptl_prefix.methods.method import Method

_TORCH = f"torch {torch.__version__}"
INFOS: Mapping[str, MetricInfo] = {
    "loss": MetricInfo(scale="nats per target token", direction="minimize", version="1", library=_TORCH),
    "perplexity": MetricInfo(scale="exp(nats per target token)", direction="minimize", version="1", library=_TORCH),
    "bits_per_character": MetricInfo(
        scale="bits per target character", direction="minimize", version="1", library=_TORCH
    ),
}
"""The description of each value. The end of each target counts as one token, and as one character."""


def measure_likelihood(
    backbone: Backbone,
    method: Method,
    rows: Rows,
    prompter: Prompter,
    *,
    batch_size: int,
    reserved_positions: int,
) -> dict[str, float]:
    """Compute the values of `INFOS` over every reference that fits the backbone uncut; empty if none does.

    Args:
        backbone: Frozen model.
        method: Method that is attached to it; `NoAdaptation` for the bare backbone.
        rows: Examples, as a task gives them.
        prompter: Encoder of sources and targets.
        batch_size: Pairs of one forward pass.
        reserved_positions: Positions that no text may use.
    """
    pairs = encode_pairs(rows, prompter, max_tokens=backbone.max_positions, reserved_positions=reserved_positions)
    if not pairs:
        return {}
    batches = pair_batches(
        [row for row, _ in pairs],
        batch_size=batch_size,
        padding=backbone.padding(prompter),
    )
    total = summed_loss(backbone, method, batches)
    backbone.slots.clear()
    nats, num_characters = float(total.nats), sum(len(target) + 1 for _, target in pairs)
    return {
        "loss": nats / total.num_tokens,
        "perplexity": math.exp(nats / total.num_tokens),
        "bits_per_character": nats / math.log(2) / num_characters,
    }
