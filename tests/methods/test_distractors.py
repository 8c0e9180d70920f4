"""Prefixes of other documents beside a trained one: where they stand, when, and that joining does the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.no_task import export_untasked
from support.toy_batches import EQUAL, train, training_batch
from torch.testing import assert_close

from ptl_prefix import PrefixTuning
from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prefix_states import PrefixStates
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.prefix_joining import join_prefixes


def exported(backbone: Backbone, folder: Path, *, seed: int, **settings: Any) -> Bundle:
    """The bundle of a prefix of three positions, or others, after a step of training."""
    torch.manual_seed(seed)
    method = PrefixTuning(**{"prefix_length": 3, "reparam": "none"} | settings).attach(backbone)
    train(backbone, method, steps=1)
    bundle = export_untasked(method.eval(), backbone, folder / f"bundle-{seed}")
    method.detach()
    return bundle


def beside(backbone: Backbone, folders: list[Path], *, seed: int = 0, **settings: Any) -> PrefixTuning:
    """A prefix of four positions in training, with these beside it."""
    torch.manual_seed(seed)
    given = {"prefix_length": 4, "reparam": "none", "p_isolated": 0.0, "distractors": [str(one) for one in folders]}
    method = PrefixTuning(**given | settings).attach(backbone)
    return method.train()


def keys_of(states: PrefixStates) -> torch.Tensor:
    layer = states.sites["decoder_self"][1]
    assert layer is not None
    return layer.key[0].detach()


@pytest.mark.parametrize("with_sinks", [False, True])
def test_a_prefix_among_others_is_what_joining_makes_of_them(
    backbone: Backbone, tmp_path: Path, with_sinks: bool
) -> None:
    other = exported(backbone, tmp_path, seed=1, frozen_sink=with_sinks)
    method = beside(backbone, [tmp_path / "bundle-1"], frozen_sink=with_sinks)
    drawn = [method.states() for _ in range(12)]
    own = export_untasked(method.eval(), backbone, tmp_path / "own")
    method.detach()

    orders = [join_prefixes(own, other, backbone), join_prefixes(other, own, backbone)]
    wanted = [one.tensors["decoder_self.keys"][1] for one in orders]

    found = {next(i for i, keys in enumerate(wanted) if torch.allclose(keys, keys_of(one), atol=1e-5)) for one in drawn}
    assert found == {0, 1}
    assert {int(one.position_offset) for one in drawn} == {orders[0].settings["prefix_length"]}


def test_three_at_once_keep_one_sink_and_stand_one_after_another(backbone: Backbone, tmp_path: Path) -> None:
    bundles = [exported(backbone, tmp_path, seed=seed, frozen_sink=True) for seed in (1, 2)]
    method = beside(backbone, [tmp_path / "bundle-1", tmp_path / "bundle-2"], frozen_sink=True, max_distractors=2)

    lengths = {int(method.states().position_offset) for _ in range(30)}

    # One or two others of three positions, each without its sink beside the first.
    assert lengths == {4 + 2, 4 + 2 + 2}
    assert method.reserved_positions(backbone) == 4 + 3 + 3
    assert bundles[0].manifest.settings["prefix_length"] == 3


def test_others_are_there_in_training_only_and_not_always(backbone: Backbone, tmp_path: Path) -> None:
    exported(backbone, tmp_path, seed=1)
    method = beside(backbone, [tmp_path / "bundle-1"], p_isolated=0.75)

    alone = sum(int(method.states().position_offset) == 4 for _ in range(200))

    assert 120 < alone < 180
    method.eval()
    assert {int(method.states().position_offset) for _ in range(20)} == {4}
    assert method.position_offset == 4


def test_gradients_reach_a_prefix_behind_another_one(backbone: Backbone, tmp_path: Path) -> None:
    exported(backbone, tmp_path, seed=1)
    method = beside(backbone, [tmp_path / "bundle-1"])
    batch = training_batch(backbone)

    for _ in range(4):
        target_loss(backbone, method, batch).nats.backward()

        (table,) = method.parameters()
        assert table.grad is not None
        assert table.grad.abs().sum(dim=(0, 1, 2, 4)).all()  # every position
        table.grad = None


def test_a_restored_prefix_has_no_others(backbone: Backbone, tmp_path: Path) -> None:
    exported(backbone, tmp_path, seed=1)
    method = beside(backbone, [tmp_path / "bundle-1"])
    bundle = export_untasked(method.eval(), backbone, tmp_path / "own")
    wanted = keys_of(method.states())
    method.detach()

    restored = PrefixTuning.restore(bundle, backbone)

    assert_close(keys_of(restored.train().states()), wanted, **EQUAL)


@pytest.mark.parametrize(
    ("own", "other", "sentence"),
    [
        ({"position_law": "infix"}, {}, "must be empty with `method.position_law=infix`"),
        ({"position_law": "unshifted"}, {}, "must have the position law unshifted, but"),
        ({"layers": [0]}, {}, "`method.distractors` must be of the layers"),
        ({"prefix_length": 40}, {"prefix_length": 30}, "must be shorter than the 64 positions"),
    ],
)
def test_what_cannot_stand_together_is_refused(
    backbone: Backbone, tmp_path: Path, own: dict[str, Any], other: dict[str, Any], sentence: str
) -> None:
    exported(backbone, tmp_path, seed=1, **other)

    with pytest.raises(ValueError, match=sentence):
        beside(backbone, [tmp_path / "bundle-1"], **own)
    with pytest.raises(ValueError, match=r"`method\.distractors`: "):
        beside(backbone, [tmp_path / "none"])
