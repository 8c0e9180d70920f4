"""How keys and values are produced: once a step, as large as is asked, by the formula."""

from typing import Any

import pytest
import torch
from support.toy_batches import EQUAL, random_ids
from torch import Tensor
from torch.testing import assert_close

from ptl_prefix.backbones.attention_sites import SiteGeometry
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import Padding
from ptl_prefix.data.collation import EncodedRow, collate_training
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.new_tables import new_table
from ptl_prefix.methods.prefix_table import LinearTable, MlpTable, PlainTable, PrefixTable
from ptl_prefix.methods.prefix_tuning import PrefixTuning

GEOMETRY = SiteGeometry(num_layers=3, num_kv_heads=2, head_dim=12)
REPARAMS = ("none", "mlp", "linear")
# Of each layer, keys first; unequal, so that no two can be mixed up unseen.
SCALES = torch.tensor([[1.0, 0.1], [5.0, 0.5], [0.02, 30.0]])[:, :, None, None, None]


@pytest.fixture(params=REPARAMS)
def table(request: pytest.FixtureRequest, backbone: Backbone) -> PrefixTable:
    """A table of enough positions for statistics."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"prefix_length": 40, "embedding_size": 24, "hidden_size": 48}
    return new_table(request.param, GEOMETRY, backbone, **sizes, train_keys=True)


def _asked(table: PrefixTable) -> Tensor:
    """What a table makes of the scales: a plain one is never narrower than it was drawn."""
    return SCALES.clamp(min=1.0) if isinstance(table, PlainTable) else SCALES


def _root_mean_squares(numbers: Tensor) -> Tensor:
    return numbers.square().mean(dim=(2, 3, 4), keepdim=True).sqrt()


def test_a_table_has_the_shape_of_its_site(table: PrefixTable) -> None:
    numbers = table()

    assert numbers.shape == table.shape == (3, 2, 2, 40, 12)
    assert numbers.dtype == torch.float32


def test_a_matched_table_is_as_large_as_was_asked_in_every_layer(table: PrefixTable) -> None:
    table.match(SCALES)

    assert_close(_root_mean_squares(table()), _asked(table), rtol=0.25, atol=0)


def test_a_matched_table_is_centred(table: PrefixTable) -> None:
    table.match(SCALES)

    assert ((table() / _asked(table)).mean(dim=(2, 3, 4)).abs() < 0.15).all()


def test_what_is_matched_to_zero_starts_at_zero_and_still_learns(table: PrefixTable) -> None:
    scales = SCALES.clone()
    scales[:, 1] = 0.0

    table.match(scales)

    keys, values = table().unbind(1)
    assert not values.any()
    assert keys.any()
    values.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in table.parameters())


def test_the_mlp_is_the_formula_of_the_paper() -> None:
    table = MlpTable(GEOMETRY, prefix_length=4, embedding_size=5, hidden_size=7)
    # Row by row: linear, tanh, linear, then cut into layers, keys and values, heads.
    rows = torch.tanh(table.rows @ table.hidden.weight.T + table.hidden.bias)
    flat = rows @ table.output.weight.T + table.output.bias

    numbers = table()

    for position in range(4):
        chunks = flat[position].split(GEOMETRY.kv_width)  # layer 0 keys, layer 0 values, layer 1 keys, ...
        for layer in range(3):
            assert_close(numbers[layer, 0, :, position].flatten(), chunks[2 * layer], **EQUAL)
            assert_close(numbers[layer, 1, :, position].flatten(), chunks[2 * layer + 1], **EQUAL)


def test_the_input_rows_of_the_mlp_have_unit_variance() -> None:
    # Rows ten times smaller cost half a nat after 200 steps.
    table = MlpTable(GEOMETRY, prefix_length=50, embedding_size=200, hidden_size=7)
    table.match(SCALES)

    assert float(table.rows.detach().std()) == pytest.approx(1.0, abs=0.05)


def test_linear_factors_are_each_layer_s_own() -> None:
    table = LinearTable(GEOMETRY, prefix_length=6, embedding_size=2)

    numbers = table()

    for layer in range(3):
        for index in range(2):
            product = table.rows[layer] @ table.columns[layer, index]  # (prefix, kv_width)
            assert_close(numbers[layer, index].transpose(0, 1).flatten(1), product, **EQUAL)
            assert torch.linalg.matrix_rank(product) == 2


@pytest.mark.parametrize("reparam", REPARAMS)
def test_the_table_is_computed_once_a_step_however_many_rows_the_batch_has(backbone: Backbone, reparam: str) -> None:
    method = PrefixTuning(prefix_length=3, reparam=reparam, reparam_hidden_size=8).attach(backbone)
    rows = [EncodedRow(input_ids=random_ids(6, seed), num_source_ids=3, example=seed) for seed in range(8)]
    calls: list[Any] = []
    for module in method.tables.modules():
        module.register_forward_hook(lambda module, arguments, output: calls.append((type(module), arguments)))

    target_loss(backbone, method, collate_training(rows, Padding(backbone.pad_id))).nats.backward()

    tables = [arguments for kind, arguments in calls if issubclass(kind, PrefixTable)]
    inner = [arguments[0].shape for kind, arguments in calls if kind is torch.nn.Linear]
    assert len(tables) == 1
    # Each linear layer sees the prefix's rows, never rows times batch.
    assert [shape[0] for shape in inner] == [3] * (2 if reparam == "mlp" else 0)
    assert all(len(shape) == 2 for shape in inner)
