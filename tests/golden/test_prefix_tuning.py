"""Twenty steps of prefix-tuning, to the last digits that another processor would give too.

`methods/<family>-<reparam>.losses.txt` has one `step loss` a line, in nats per token, and `<family>-<reparam>.keys.txt`
the keys after the last step, one prefix position a line, by layer and head. A change of either must be meant. To write
them anew, and then read what changed:

    REGENERATE_GOLDEN=1 python -m pytest tests/golden/test_prefix_tuning.py; git diff tests/golden
"""

import os
from pathlib import Path

import pytest
import torch
from support.toy_batches import train
from torch.testing import assert_close

from ptl_prefix import PrefixTuning
from ptl_prefix.backbones.backbone import Backbone

GOLDEN = Path(__file__).parent / "methods"
STEPS = 20


@pytest.mark.parametrize("reparam", ["none", "mlp", "linear"])
def test_losses_and_trained_keys_are_the_golden_ones(backbone: Backbone, reparam: str) -> None:
    torch.manual_seed(0)
    method = PrefixTuning(prefix_length=4, reparam=reparam, reparam_hidden_size=16, reparam_embedding_size=8)

    losses = train(backbone, method.attach(backbone), steps=STEPS)

    _, tensors = method.export()
    keys = tensors["decoder_self.keys"].flatten(0, 2)  # (layers x kv_heads x prefix, head_dim)
    stem = f"{backbone.family}-{reparam}"
    golden_losses, golden_keys = GOLDEN / f"{stem}.losses.txt", GOLDEN / f"{stem}.keys.txt"
    if os.environ.get("REGENERATE_GOLDEN"):
        golden_losses.write_text("".join(f"{step} {loss:.7f}\n" for step, loss in enumerate(losses)))
        golden_keys.write_text("".join(" ".join(f"{number:.6f}" for number in row) + "\n" for row in keys.tolist()))
    expected = [line.split() for line in golden_losses.read_text().splitlines()]
    assert [int(step) for step, _ in expected] == list(range(STEPS))
    assert losses == pytest.approx([float(loss) for _, loss in expected], rel=1e-4)
    rows = [[float(number) for number in line.split()] for line in golden_keys.read_text().splitlines()]
    assert_close(keys, torch.tensor(rows), rtol=1e-4, atol=1e-4)
