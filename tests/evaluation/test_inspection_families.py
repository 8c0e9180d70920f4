"""A prefix can be looked at in every family, at every site it has."""

from pathlib import Path
from typing import Any

import torch
from support.no_task import export_untasked

from ptl_prefix import PrefixTuning, load_bundle
from ptl_prefix.artifacts.inspection import Inspection
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.evaluation.inspection import InspectionSettings, inspect_prefix


def inspected(backbone: Backbone, folder: Path, **changes: Any) -> Inspection:
    torch.manual_seed(0)
    method = PrefixTuning(prefix_length=5, reparam="none", **changes).attach(backbone)
    export_untasked(method.eval(), backbone, folder / "bundle")
    method.detach()
    adaptation = load_bundle(folder / "bundle", backbone)
    settings = InspectionSettings(batch_size=2, max_new_tokens=6, dead_below=0.01, layer=None, top_k=2, max_words=40)
    try:
        return inspect_prefix(
            adaptation, ["the cat sat", "a pub", "the mat"], settings, bundle="bundle", texts_from="from here"
        )
    finally:
        adaptation.detach()


def test_every_family_is_looked_at_at_every_site(any_backbone: Backbone, tmp_path: Path) -> None:
    found = inspected(any_backbone, tmp_path)

    assert list(found.sites) == list(any_backbone.geometry)
    for name, site in found.sites.items():
        geometry = any_backbone.geometry[name]
        assert len(site.mass) == geometry.num_layers
        assert site.prefix_length == 5
        assert len(site.mass[0]) >= geometry.num_kv_heads
        assert all(0 < even < 1 for even in site.even_mass)
        assert all(0 < mass < 1 for row in site.mass for mass in row)
        assert [len(near.by_key) for near in site.nearest] == [5] * len(site.nearest)
        assert site.nearest


def test_only_queries_behind_an_infix_count(backbone: Backbone, tmp_path: Path) -> None:
    prefix, infix = (
        inspected(backbone, tmp_path, position_law=law).sites["decoder_self"] for law in ("shifted", "infix")
    )

    assert 0 < infix.num_queries < prefix.num_queries
    assert min(infix.even_mass) > 0
