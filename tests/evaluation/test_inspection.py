"""Inspections of prefixes that are constructed so that the right numbers are known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.no_task import export_untasked
from support.toy_batches import text_logits, unpadded

from ptl_prefix import PrefixTuning, load_bundle
from ptl_prefix.artifacts.inspection import Inspection, SiteInspection, read_inspection, write_inspection
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.observation import observed_keys_values
from ptl_prefix.backbones.prefix_states import LayerStates
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.errors import BundleError, DataError
from ptl_prefix.evaluation import inspection
from ptl_prefix.evaluation.inspection import DEFINITIONS, InspectionSettings, inspect_prefix, require_prefix
from ptl_prefix.methods.no_adaptation import NoAdaptation
from ptl_prefix.methods.restore import Adaptation

TEXTS = ["the cat sat on the mat", "a pub", "name : Wildwood , a food : Italian"]
Change = Callable[[torch.Tensor], None]
"""What is done to a drawn table of (layers, 2, kv_heads, prefix, head_dim), keys first."""


def settings(**changes: Any) -> InspectionSettings:
    return InspectionSettings(
        **{
            "batch_size": 2,
            "max_new_tokens": 0,
            "dead_below": 0.01,
            "layer": None,
            "top_k": 2,
            "max_words": 60,
            **changes,
        }
    )


def inspected(
    backbone: Backbone,
    folder: Path,
    change: Change = lambda table: None,
    texts: list[str] = TEXTS,
    method: dict[str, Any] | None = None,
    **changes: Any,
) -> Inspection:
    """The inspection of a bundle whose table is as `change` leaves it."""
    torch.manual_seed(0)
    prefix = PrefixTuning(reparam="none", **{"prefix_length": 4, **(method or {})}).attach(backbone)
    with torch.no_grad():
        change(prefix.tables["decoder_self"].table)  # type: ignore[arg-type]
    export_untasked(prefix.eval(), backbone, folder / "bundle")
    prefix.detach()
    adaptation = load_bundle(folder / "bundle", backbone)
    try:
        return inspect_prefix(adaptation, texts, settings(**changes), bundle="bundle", texts_from="from here")
    finally:
        adaptation.detach()


def site_of(found: Inspection) -> SiteInspection:
    return found.sites["decoder_self"]


def test_a_token_that_no_query_looks_at_is_dead(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A key that loses against every query is no vector; a position that is hidden is what such a key comes to.
    states = PrefixTuning.states

    def with_hidden_ones(self: PrefixTuning) -> Any:
        drawn = states(self)
        mask = torch.tensor([[True, False, True, False]])
        sites = {
            site: tuple(LayerStates(layer.key, layer.value, mask) for layer in layers if layer)
            for site, layers in drawn.sites.items()
        }
        return type(drawn)(sites, drawn.position_offset)

    assert site_of(inspected(backbone, tmp_path)).dead == ()
    monkeypatch.setattr(PrefixTuning, "states", with_hidden_ones)

    site = site_of(inspected(backbone, tmp_path))

    assert site.dead == (1, 3)
    assert all(row[1] == row[3] == 0.0 for row in site.token_mass)


def test_keys_that_lose_against_every_query_are_dead(backbone: Backbone, tmp_path: Path) -> None:
    # With queries that all have a constant part, a key far against it never wins; one far along it takes all.
    direction = _constant_query(backbone)
    group = direction.shape[0] // backbone.geometry["decoder_self"].num_kv_heads
    towards = direction[::group]

    def change(table: torch.Tensor) -> None:
        table[:, 0, :, [0, 2]] = -towards[:, None]
        table[1, 0, :, 2] = towards  # wins everything in one layer, and nothing in the others

    site = site_of(inspected(backbone, tmp_path, change))

    assert site.dead == (0,)
    assert [layer for mass, layer in site.peaks if mass > 0.99] == [1]
    assert site.peaks[2][0] > 0.99
    assert site.token_mass[0][2] < 0.01
    assert min(site.mass[1]) > 0.99


def _constant_query(backbone: Backbone) -> torch.Tensor:
    """Make every query of every layer one and the same vector of ones, and say it, (heads, head_dim)."""
    geometry = backbone.geometry["decoder_self"]
    heads, model = backbone.config.num_attention_heads, backbone.model
    for name, module in model.named_modules():
        width = heads * geometry.head_dim
        if name.endswith("c_attn"):
            with torch.no_grad():
                module.weight[:, :width] = 0.0
                module.bias[:width] = 1.0
        elif name.endswith("q_proj"):
            with torch.no_grad():
                module.weight.zero_()
            module.bias = torch.nn.Parameter(torch.ones(width), requires_grad=False)
    # Rotary queries turn with their position: along the slowest channels they hardly do.
    direction = torch.zeros(heads, geometry.head_dim)
    direction[:, geometry.head_dim // 2 - 1] = direction[:, -1] = 100.0
    return direction


def test_norms_are_multiples_of_the_texts_own(backbone: Backbone, tmp_path: Path) -> None:
    # In the first layer a text's keys and values do not depend on the prefix yet.
    text = TEXTS[0]
    ids = Prompter(backbone.tokenizer, PromptFormat()).encode_source(text)
    prompt = ModelInputs(torch.tensor([ids]), torch.ones(1, len(ids)).long()).with_positions(4)
    key, value = observed_keys_values(backbone, prompt)["decoder_self"][0]

    def change(table: torch.Tensor) -> None:
        table[0, 0], table[0, 1] = key.square().mean().sqrt(), -value.square().mean().sqrt()
        table[0, 0, :, 2] *= -3
        table[0, 1, :, 1] *= 0.5

    site = site_of(inspected(backbone, tmp_path, change, texts=[text]))

    assert site.key_norms[0] == pytest.approx([1, 1, 3, 1], rel=1e-4)
    assert site.value_norms[0] == pytest.approx([1, 0.5, 1, 1], rel=1e-4)


def test_what_the_bundle_writes_is_read_too(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def generate(self: Adaptation, sources: list[str], **decoding: Any) -> list[str]:
        asked.append(decoding)
        return ["sat on the mat" if source == TEXTS[0] else "a" for source in sources]

    monkeypatch.setattr(Adaptation, "generate_rendered", generate)
    alone, written, cut = (
        site_of(inspected(backbone, tmp_path, texts=TEXTS[:2], max_new_tokens=number)) for number in (0, 20, 2)
    )

    prompter = Prompter(backbone.tokenizer, PromptFormat())
    lengths = [len(ids) for ids in prompter.tokenize_targets(["sat on the mat", "a"])]
    assert lengths[0] > 2 > lengths[1]
    assert written.num_queries == alone.num_queries + sum(lengths)
    assert cut.num_queries == alone.num_queries + 2 + lengths[1]
    assert asked[0] == {"max_new_tokens": 20, "min_new_tokens": 0, "num_beams": 1, "do_sample": False}


def test_a_bundle_writes_for_itself(backbone: Backbone, tmp_path: Path) -> None:
    alone, written = (site_of(inspected(backbone, tmp_path, max_new_tokens=number)) for number in (0, 8))

    assert alone.num_queries <= written.num_queries <= alone.num_queries + 8 * len(TEXTS)
    assert alone.mass != written.mass or alone.num_queries == written.num_queries


def test_the_share_of_a_token_is_that_of_its_strongest_head(backbone: Backbone, tmp_path: Path) -> None:
    site = site_of(inspected(backbone, tmp_path, method={"prefix_length": 1}))

    assert [row[0] for row in site.token_mass] == [max(heads) for heads in site.mass]
    assert site.peaks == [max((max(heads), layer) for layer, heads in enumerate(site.mass))]


def test_how_many_texts_are_read_together_changes_nothing(backbone: Backbone, tmp_path: Path) -> None:
    alone, together = (site_of(inspected(backbone, tmp_path, batch_size=size)) for size in (1, 3))

    assert alone.num_queries == together.num_queries
    torch.testing.assert_close(torch.tensor(alone.mass), torch.tensor(together.mass), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(alone.even_mass), torch.tensor(together.even_mass), rtol=1e-4, atol=1e-5)


def test_a_text_counts_by_its_tokens(backbone: Backbone, tmp_path: Path) -> None:
    first, second, both = (
        site_of(inspected(backbone, tmp_path, texts=texts)) for texts in (TEXTS[:1], TEXTS[1:2], TEXTS[:2])
    )

    assert both.num_queries == first.num_queries + second.num_queries
    expected = (
        torch.tensor(first.mass) * first.num_queries + torch.tensor(second.mass) * second.num_queries
    ) / both.num_queries
    torch.testing.assert_close(torch.tensor(both.mass), expected, rtol=1e-4, atol=1e-5)


def test_only_layers_with_a_prefix_are_spoken_of(backbone: Backbone, tmp_path: Path) -> None:
    site = site_of(inspected(backbone, tmp_path, method={"layers": [0, 2]}))

    assert site.layers == (0, 2)
    assert [len(rows) for rows in (site.mass, site.even_mass, site.token_mass, site.key_norms)] == [2] * 4
    assert [nearest.layer for nearest in site.nearest] == [0, 2]


def test_the_nearest_words_are_those_of_the_first_middle_and_last_layer_or_of_the_one_asked_for(
    backbone: Backbone, tmp_path: Path
) -> None:
    usual, asked = inspected(backbone, tmp_path), inspected(backbone, tmp_path, layer=1, max_words=30)

    assert [nearest.layer for nearest in site_of(usual).nearest] == [0, 1, 2]
    assert [nearest.layer for nearest in site_of(asked).nearest] == [1]
    assert (usual.num_words, asked.num_words) == (60, 30)
    assert usual.vocabulary_words == asked.vocabulary_words > 60
    ids = [word.token_id for near in site_of(asked).nearest[0].by_key for word in near]
    assert len(ids) == 4 * 2


def test_a_layer_without_a_prefix_is_refused_with_those_that_have_one(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be one that has a prefix, but is 1; choose from: decoder_self 0, 2"):
        inspected(backbone, tmp_path, layer=1, method={"layers": [0, 2]})


def test_no_texts_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be texts, with a token in each"):
        inspected(backbone, tmp_path, texts=[])


def test_a_text_that_is_too_long_is_cut_as_its_task_says(backbone: Backbone, tmp_path: Path) -> None:
    site = site_of(inspected(backbone, tmp_path, texts=["a b c d " * 30]))

    assert site.num_queries == 64 - 4  # every position that the prefix leaves


def test_a_bundle_without_a_prefix_is_refused_by_its_methods_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "method_class", lambda kind: NoAdaptation)

    with pytest.raises(BundleError, match=r"needs a bundle with a prefix.*'lora'"):
        require_prefix("lora")


def test_looking_leaves_the_backbone_bare_and_the_bundle_at_work(backbone: Backbone, tmp_path: Path) -> None:
    inspected(backbone, tmp_path)
    adaptation = load_bundle(tmp_path / "bundle", backbone)
    bare, written = text_logits(backbone, unpadded()), adaptation.generate(TEXTS)

    inspect_prefix(adaptation, TEXTS, settings(), bundle="bundle", texts_from="from here")

    assert all(torch.equal(a, b) for a, b in zip(text_logits(backbone, unpadded()), bare, strict=True))
    assert adaptation.generate(TEXTS) == written
    adaptation.detach()


def test_what_is_found_survives_the_disk_with_its_definitions(backbone: Backbone, tmp_path: Path) -> None:
    found = inspected(backbone, tmp_path)

    write_inspection(tmp_path / "inspection.json", found)

    assert read_inspection(tmp_path / "inspection.json") == found
    assert found.definitions == DEFINITIONS
    assert (found.bundle, found.texts, found.num_texts) == ("bundle", "from here", 3)
    assert (found.method, found.task, found.position_law) == ("prefix_tuning", "no_task", "shifted")
