import torch
from support.tiny_runs import TinyRuns

from ptl_prefix.training.norms import norms


def test_the_norms_of_a_prefix_are_those_of_the_table_that_attention_sees(tiny_runs: TinyRuns) -> None:
    plan, _ = tiny_runs.attached(method__reparam="mlp")

    found = norms(plan.method)

    keys = plan.method.export()[1]["decoder_self.keys"]
    lengths = keys.double().square().sum(dim=-1).sqrt()
    assert found.keys() == {"norm/trained", "norm/decoder_self.keys", "norm/decoder_self.values"}
    assert abs(found["norm/decoder_self.keys"] - float(lengths.mean())) < 1e-6


def test_the_norm_of_all_trained_parameters_is_that_of_one_long_vector(tiny_runs: TinyRuns) -> None:
    plan, _ = tiny_runs.attached(method__reparam="none")

    whole = torch.cat([parameter.flatten() for parameter in plan.method.trainable_parameters().values()])

    assert abs(norms(plan.method)["norm/trained"] - float(whole.detach().norm())) < 1e-4


def test_a_prefix_inside_a_combination_is_measured_too(tiny_runs: TinyRuns) -> None:
    plan, _ = tiny_runs.attached()
    outer = torch.nn.Module()
    outer.part = plan.method
    outer.trainable_parameters = plan.method.trainable_parameters  # type: ignore[assignment]

    assert "norm/decoder_self.values" in norms(outer)  # type: ignore[arg-type]
