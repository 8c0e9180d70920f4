"""The norms that every method gives to be logged."""

import torch

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.methods.combination import Combination
from ptl_prefix.methods.lora import LoRA
from ptl_prefix.methods.prefix_tuning import PrefixTuning


def test_the_norms_of_a_prefix_are_those_of_the_table_that_attention_sees(backbone: Backbone) -> None:
    method = PrefixTuning(prefix_length=3, reparam="mlp").attach(backbone)

    found = method.tracked_norms()

    lengths = method.export()[1]["decoder_self.keys"].double().square().sum(dim=-1).sqrt()
    assert found.keys() == {"trained", "decoder_self.keys", "decoder_self.values"}
    assert abs(found["decoder_self.keys"] - float(lengths.mean())) < 1e-6


def test_the_norm_of_all_trainable_parameters_is_that_of_one_long_vector(backbone: Backbone) -> None:
    method = PrefixTuning(prefix_length=3, reparam="none").attach(backbone)

    whole = torch.cat([parameter.flatten() for parameter in method.trainable_parameters().values()])

    assert abs(method.tracked_norms()["trained"] - float(whole.detach().norm())) < 1e-4


def test_a_combination_tracks_the_norms_of_its_parts_and_of_all_its_parameters(backbone: Backbone) -> None:
    prefix, lora = PrefixTuning(prefix_length=3, reparam="none"), LoRA(rank=2)
    both = Combination(name="both", parts={"prefix": prefix, "lora": lora}).attach(backbone)

    found = both.tracked_norms()

    by_part = (prefix.tracked_norms(), lora.tracked_norms())
    assert found["decoder_self.values"] == by_part[0]["decoder_self.values"]
    assert abs(found["trained"] ** 2 - sum(norms["trained"] ** 2 for norms in by_part)) < 1e-2
