"""Two prefixes joined into one: where their positions are, which sink is kept, and what cannot be joined."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.no_task import export_untasked
from support.toy_batches import train, unpadded
from support.toy_prefixes import logits_with
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix import PrefixTuning
from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prefix_states import LayerStates, PrefixStates
from ptl_prefix.errors import BundleError
from ptl_prefix.methods.prefix_joining import join_prefixes, join_problems


def exported(backbone: Backbone, folder: Path, *, seed: int = 0, **settings: Any) -> Bundle:
    """The bundle of a prefix after a step of training."""
    torch.manual_seed(seed)
    method = PrefixTuning(**{"prefix_length": 3, "reparam": "none"} | settings).attach(backbone)
    train(backbone, method, steps=1)
    bundle = export_untasked(method.eval(), backbone, folder / f"bundle-{seed}")
    method.detach()
    return bundle


def states_of(backbone: Backbone, tensors: dict[str, Tensor], *, visible: list[bool], offset: int) -> PrefixStates:
    mask = torch.tensor([visible])
    sites = {
        site: tuple(
            LayerStates(key[None], value[None], mask)
            for key, value in zip(tensors[f"{site}.keys"], tensors[f"{site}.values"], strict=True)
        )
        for site in backbone.geometry
    }
    return PrefixStates(sites, torch.tensor([offset]))


@pytest.mark.parametrize("with_sinks", [False, True])
def test_the_second_prefix_meets_a_rotary_text_as_it_does_alone(
    tiny_folders: dict[str, Path], tmp_path: Path, with_sinks: bool
) -> None:
    from ptl_prefix.backbones.spec import load_backbone

    backbone = load_backbone(str(tiny_folders["llama"]), dtype="float32")
    first = exported(backbone, tmp_path, seed=1, frozen_sink=with_sinks)
    second = exported(backbone, tmp_path, seed=2, prefix_length=5, frozen_sink=with_sinks)
    joined = join_prefixes(first, second, backbone)

    num_kept = 5 - int(with_sinks)
    assert (joined.num_first, joined.num_second, joined.num_dropped) == (3, num_kept, int(with_sinks))
    assert joined.settings["prefix_length"] == 3 + num_kept
    # Without the first prefix, and without the sink of the second, nothing but absolute positions differs.
    visible = [not with_sinks, *[True] * 4]
    alone = states_of(backbone, second.tensors, visible=visible, offset=5)
    hidden = states_of(backbone, joined.tensors, visible=[False] * 3 + [True] * num_kept, offset=3 + num_kept)
    for one, other in zip(
        logits_with(backbone, hidden, unpadded()), logits_with(backbone, alone, unpadded()), strict=True
    ):
        # The second's keys are turned once more, in float32: a little more rounding than two ways to the same logits.
        assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_first_prefix_is_unchanged_and_stands_first(backbone: Backbone, tmp_path: Path) -> None:
    first, second = (exported(backbone, tmp_path, seed=seed) for seed in (1, 2))

    joined = join_prefixes(first, second, backbone)

    for name, tensor in joined.tensors.items():
        assert torch.equal(tensor[:, :, :3], first.tensors[name]), name
    assert torch.equal(joined.tensors["decoder_self.values"][:, :, 3:], second.tensors["decoder_self.values"])
    is_rotary = backbone.family == "llama"
    assert joined.moved_by == (3 if is_rotary else 0)
    is_same = torch.equal(joined.tensors["decoder_self.keys"][:, :, 3:], second.tensors["decoder_self.keys"])
    assert is_same is not is_rotary


def test_unshifted_prefixes_are_not_moved_and_may_sit_in_some_layers(backbone: Backbone, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"position_law": "unshifted", "layers": [0, 2]}
    first, second = (exported(backbone, tmp_path, seed=seed, **settings) for seed in (1, 2))

    joined = join_prefixes(first, second, backbone)

    assert joined.moved_by == 0
    for name, tensor in joined.tensors.items():
        assert torch.equal(tensor, torch.cat([first.tensors[name], second.tensors[name]], dim=2))


def test_an_encoder_decoder_s_prefixes_are_joined_at_every_site(encoder_decoder: Backbone, tmp_path: Path) -> None:
    first, second = (exported(encoder_decoder, tmp_path, seed=seed, frozen_sink=True) for seed in (1, 2))

    joined = join_prefixes(first, second, encoder_decoder)

    assert joined.num_dropped == 1
    assert joined.tensors.keys() == first.tensors.keys()
    assert len(joined.tensors) == 6
    assert {tensor.shape[2] for tensor in joined.tensors.values()} == {5}


def test_the_only_sink_is_kept(backbone: Backbone, tmp_path: Path) -> None:
    plain = exported(backbone, tmp_path, seed=1)
    with_sink = exported(backbone, tmp_path, seed=2, frozen_sink=True)

    assert join_prefixes(plain, with_sink, backbone).num_dropped == 0
    assert join_prefixes(with_sink, plain, backbone).num_dropped == 0


def test_what_cannot_be_joined_is_said_with_all_reasons(backbone: Backbone, tmp_path: Path) -> None:
    manifest = exported(backbone, tmp_path).manifest
    other = dataclasses.replace(
        manifest,
        dtype="bfloat16",
        prompt=PromptFormat(between=" TL;DR:"),
        settings=manifest.settings | {"layers": [1]},
        backbone=dataclasses.replace(manifest.backbone, weights_fingerprint="x"),
    )

    assert join_problems(manifest, manifest) == []
    problems = join_problems(manifest, other)
    assert [problem.split("the same ")[1].split(",")[0] for problem in problems] == [
        "backbone", "dtype", "layers", "prompt format",
    ]  # fmt: skip
    (problem,) = join_problems(manifest, dataclasses.replace(manifest, method="lora"))
    assert "must be of prefix_tuning, but are of prefix_tuning and lora" in problem
    infix = dataclasses.replace(manifest, position_law="infix")
    (problem,) = join_problems(infix, infix)
    assert "infixes" in problem


def test_a_join_as_long_as_the_context_window_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    first, second = (exported(backbone, tmp_path, seed=seed, prefix_length=32) for seed in (1, 2))

    with pytest.raises(BundleError, match=r"shorter than the 64 positions of (gpt2|llama), but have 64 together"):
        join_prefixes(first, second, backbone)
