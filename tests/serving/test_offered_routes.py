"""A router knows the bundles that a store offers, and no others."""

import shutil
from pathlib import Path

import pytest
from support.made_up_routing import FRUIT, STARS, TOOLS, made_up_facts, texts
from support.served_requests import make_bundle

from ptl_prefix.artifacts.routing_facts import RoutingFacts
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.serving.ngram_router import NgramRouter
from ptl_prefix.serving.offered_routes import OfferedRoutes
from ptl_prefix.serving.prefix_store import PrefixStore


@pytest.fixture
def base(tiny_folders: dict[str, Path]) -> Backbone:
    return load_backbone(str(tiny_folders["gpt2"]), name="gpt2", dtype="float32")


def offer(base: Backbone, folder: Path, vocabulary: str | None, *, seed: int) -> RoutingFacts | None:
    facts = None if vocabulary is None else made_up_facts(vocabulary)
    shutil.rmtree(folder, ignore_errors=True)
    make_bundle(base, folder, seed=seed, routing=facts)
    return facts


def test_the_router_follows_what_is_offered(base: Backbone, tmp_path: Path) -> None:
    offer(base, tmp_path / "fruit", FRUIT, seed=0)
    offer(base, tmp_path / "tools", TOOLS, seed=1)
    offer(base, tmp_path / "silent", None, seed=2)
    store = PrefixStore(tmp_path, base, max_bytes=2**20)
    store.rescan()
    fruit, tool, star = (texts(vocabulary, 1, seed=9)[0] for vocabulary in (FRUIT, TOOLS, STARS))

    routes = OfferedRoutes(store, NgramRouter(wrong_refusals=0.05))

    assert [routes.choose(text).name for text in (fruit, tool, star)] == ["fruit", "tools", None]
    assert routes.reasons == {"silent": "was exported without routing"}

    offer(base, tmp_path / "stars", STARS, seed=3)
    offer(base, tmp_path / "tools", FRUIT, seed=4)  # the same name with other content
    store.rescan()
    store.unload("fruit")

    assert [routes.choose(text).name for text in (fruit, tool, star)] == ["tools", None, "stars"]
    shutil.rmtree(tmp_path / "silent")
    store.rescan()
    assert routes.reasons == {}


def test_a_bundle_with_damaged_facts_is_offered_by_its_name(base: Backbone, tmp_path: Path) -> None:
    offer(base, tmp_path / "fruit", FRUIT, seed=0)
    file = tmp_path / "fruit" / "routing.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    store = PrefixStore(tmp_path, base, max_bytes=2**20)
    store.rescan()

    routes = OfferedRoutes(store, NgramRouter(wrong_refusals=0.05))

    assert store.find("fruit").name == "fruit"
    assert "damaged routing facts" in routes.reasons["fruit"]
    assert routes.choose(texts(FRUIT, 1)[0]).name is None
