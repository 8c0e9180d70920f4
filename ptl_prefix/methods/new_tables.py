"""New tables of a prefix: one for each attention site, computed as the settings say.

In: a backbone's shape, and settings. Out: tables as drawn, which `prefix_start.py` initialises.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ptl_prefix.backbones.attention_sites import SiteGeometry
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.methods.frozen_keys import FrozenKeysTable
from ptl_prefix.methods.prefix_table import EmbeddingTable, LinearTable, MlpTable, PlainTable, PrefixTable


def new_tables(reparam: str, backbone: Backbone, layers: Mapping[str, Sequence[int]], **sizes: Any) -> nn.ModuleDict:
    """New tables by site.

    Args:
        reparam: As in `new_table`.
        backbone: The backbone.
        layers: Indices of the layers that get a prefix, by site.
        sizes: The other arguments of `new_table`.
    """
    geometries = {
        site: dataclasses.replace(backbone.geometry[site], num_layers=len(indices)) for site, indices in layers.items()
    }
    return nn.ModuleDict(
        {site: new_table(reparam, geometry, backbone, **sizes) for site, geometry in geometries.items()}
    )


def new_table(
    reparam: str,
    geometry: SiteGeometry,
    backbone: Backbone,
    *,
    prefix_length: int,
    embedding_size: int | None,
    hidden_size: int,
    train_keys: bool,
) -> PrefixTable:
    """A new table of one site.

    Args:
        reparam: `none`, `mlp`, `linear`, or `embedding`, which needs `train_keys`.
        geometry: Shape of the site; `num_layers` counts only the layers that get a prefix.
        backbone: The backbone.
        prefix_length: Number of positions that are trained.
        embedding_size: Width of the MLP's input, or of P' in `linear`; `None` is the backbone's width.
        hidden_size: Width of the MLP's hidden layer.
        train_keys: Whether keys are trained, or only values.
    """
    width, num_parts = embedding_size or backbone.hidden_size, 1 + int(train_keys)
    if reparam == "none":
        table: PrefixTable = PlainTable(geometry, prefix_length, num_parts)
    elif reparam == "mlp":
        table = MlpTable(geometry, prefix_length, width, hidden_size, num_parts)
    elif reparam == "linear":
        table = LinearTable(geometry, prefix_length, width, num_parts)
    else:
        assert (reparam, train_keys) == ("embedding", True), (reparam, train_keys)
        table = EmbeddingTable(geometry, prefix_length, backbone)
    return table if train_keys else FrozenKeysTable(table)
