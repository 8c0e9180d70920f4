"""The connector's decisions, on scripts of the parts of vLLM that it builds on; test_vllm.py runs the real one."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.scripted_engine import GREEDY
from support.scripted_vllm import FullAttentionSpec, fake_modules

from ptl_prefix.artifacts.bundle import BackboneIdentity, BundleContents, write_bundle
from ptl_prefix.artifacts.fingerprint import fingerprint_tensors
from ptl_prefix.artifacts.manifest import read_versioned_manifest
from ptl_prefix.artifacts.paged_prefix import PrefixLabel
from ptl_prefix.artifacts.prompt_format import PromptFormat

PAGE, LENGTH = 4, 10
GEOMETRY = {"num_layers": 2, "num_kv_heads": 3, "head_dim": 8}
WEIGHTS = {"a": torch.ones(2), "b": torch.zeros(3)}


@pytest.fixture
def connector_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, module in fake_modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    names = [f"ptl_prefix.serving.{name}" for name in ("vllm_bundles", "vllm_connector")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(names[1])
    for name in names:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, and a bundle of it whose rows say where they are from."""
    (tmp_path / "model").mkdir()
    save_file(WEIGHTS, tmp_path / "model/model.safetensors")
    write(tmp_path / "bundles/towns")
    return tmp_path


def write(path: Path, **changes: Any) -> str:
    rows = torch.arange(float(LENGTH))[:, None].expand(2, 3, LENGTH, 8) + torch.tensor([0.0, 100.0]).view(2, 1, 1, 1)
    identity = BackboneIdentity(
        name="tiny",
        path="tiny",
        family="llama",
        weights_fingerprint=fingerprint_tensors(WEIGHTS.items()),
        tokenizer_fingerprint="b",
    )
    stated: dict[str, Any] = {
        "tensors": {"decoder_self.keys": rows, "decoder_self.values": -rows},
        "method": "prefix_tuning",
        "settings": {"prefix_length": LENGTH, "layers": None, "sites": ["decoder_self"], "position_law": "shifted"},
        "task": "towns",
        "task_version": "1",
        "prompt": PromptFormat(),
        "stop_ids": (0,),
        "decoding": GREEDY,
        "label_set": None,
        "metrics": {},
        "geometry": {"decoder_self": GEOMETRY},
        "position_law": "shifted",
        "dtype": "float32",
        "backbone": identity,
    }
    path.parent.mkdir(exist_ok=True)
    return write_bundle(path, BundleContents(**stated | changes)).version


def version_of(folder: Path) -> str:
    return read_versioned_manifest(folder)[1]


def config(folder: Path, **changes: Any) -> SimpleNamespace:
    text = SimpleNamespace(num_hidden_layers=2)
    values: dict[str, Any] = {
        "kv_load_failure_policy": "fail",
        "kv_role": "kv_consumer",
        "kv_connector_extra_config": {"bundles": str(folder / "bundles")},
        "speculative_config": None,
        "cache_dtype": "auto",
        "decode_context_parallel_size": 1,
        "num_kv_heads": 3,
    } | changes
    model = SimpleNamespace(
        model=str(folder / "model"),
        dtype=torch.float32,
        hf_text_config=text,
        get_total_num_kv_heads=lambda: values["num_kv_heads"],
        get_head_size=lambda: 8,
    )
    return SimpleNamespace(
        kv_transfer_config=SimpleNamespace(**values),
        parallel_config=SimpleNamespace(**values),
        cache_config=SimpleNamespace(block_size=PAGE, **values),
        speculative_config=values["speculative_config"],
        model_config=model,
    )


def pages(**changes: Any) -> SimpleNamespace:
    spec = FullAttentionSpec(**{"sliding_window": None, "attention_chunk_size": None} | changes)
    return SimpleNamespace(kv_cache_groups=[SimpleNamespace(kv_cache_spec=spec)])


def request(version: str, *, text: int = 3, **changes: Any) -> SimpleNamespace:
    label = PrefixLabel(version)
    ids = [0] * LENGTH + [5] * text
    values = {"kv_transfer_params": label.kv_transfer_params, "cache_salt": label.cache_salt, "prompt_token_ids": ids}
    values |= {"sampling_params": SimpleNamespace(prompt_logprobs=None), "lora_request": None, "mm_features": []}
    values |= {"prompt_embeds": None, "request_id": "one", "skip_reading_prefix_cache": True, **changes}
    return SimpleNamespace(num_tokens=len(values["prompt_token_ids"]), **values)


class Layer:
    """An attention layer whose pages are one tensor, (slots, kv_heads, head_dim)."""

    def __init__(self) -> None:
        self.kv_cache = torch.zeros(8 * PAGE, 3, 8)
        self.impl = SimpleNamespace(num_kv_heads=3, head_size=8, do_kv_cache_update=self._update)

    def _update(self, layer: Any, keys: Any, values: Any, cache: Any, slots: Any) -> None:
        assert torch.equal(values, -keys)
        cache[slots] = keys


def new_connector(module: Any, folder: Path, role: int = 0, **changes: Any) -> Any:
    return module.TrainedPrefixConnector(config(folder, **changes), role, pages())


def scheduled(connector: Any, asked: Any, block_ids: list[int], *, cached: int = 0) -> Any:
    """What vLLM's scheduler does with a request that has tokens in cached pages; the number of tokens to load."""
    number, is_async = connector.get_num_new_matched_tokens(asked, cached)
    assert not is_async
    connector.update_state_after_alloc(asked, SimpleNamespace(get_block_ids=lambda: (block_ids,)), number)
    return number


def loaded(module: Any, folder: Path, meta: Any) -> tuple[list[Layer], set[int]]:
    """What a worker's pages hold after a step, and the pages that it says have failed."""
    worker, layers = new_connector(module, folder, role=1), [Layer(), Layer()]
    worker.metadata = meta
    names = {f"model.layers.{index}.self_attn.attn": layer for index, layer in enumerate(layers)}
    worker.start_load_kv(SimpleNamespace(no_compile_layers=names | {"model.layers.0.mlp": object()}))
    failed = worker.get_block_ids_with_load_errors()
    assert worker.get_block_ids_with_load_errors() == set()
    return layers, failed


@pytest.mark.parametrize("cached", [0, 4, 8])
def test_the_rows_that_no_cached_page_holds_are_put_into_the_pages(
    connector_module: Any, folder: Path, cached: int
) -> None:
    connector = new_connector(connector_module, folder)
    asked = request(version_of(folder / "bundles/towns"))
    connector.on_new_request(asked)

    assert scheduled(connector, asked, [6, 2, 4, 1], cached=cached) == LENGTH - cached
    layers, failed = loaded(connector_module, folder, connector.build_connector_meta(None))

    assert failed == set()
    assert asked.skip_reading_prefix_cache is False
    slots = [(6, 2, 4)[position // PAGE] * PAGE + position % PAGE for position in range(LENGTH)]
    for index, layer in enumerate(layers):
        wanted = torch.zeros_like(layer.kv_cache)
        for position in range(cached, LENGTH):
            wanted[slots[position]] = position + 100.0 * index
        assert torch.equal(layer.kv_cache, wanted)
    assert connector.build_connector_meta(None).loads == []


def test_a_request_that_ends_before_the_next_pass_is_not_loaded(connector_module: Any, folder: Path) -> None:
    connector = new_connector(connector_module, folder)
    asked = request(version_of(folder / "bundles/towns"))
    connector.on_new_request(asked)
    scheduled(connector, asked, [0, 1, 2, 3])

    connector.request_finished(asked, [0, 1, 2, 3])

    assert connector.build_connector_meta(None).loads == []


def test_a_preempted_request_is_loaded_again_and_a_cached_one_is_not(connector_module: Any, folder: Path) -> None:
    connector = new_connector(connector_module, folder)
    asked = request(version_of(folder / "bundles/towns"))
    connector.on_new_request(asked)
    scheduled(connector, asked, [0, 1, 2, 3])
    connector.build_connector_meta(None)

    assert scheduled(connector, asked, [4, 5, 6, 7]) == LENGTH
    (load,) = connector.build_connector_meta(None).loads
    assert load.block_ids == (4, 5, 6)
    assert scheduled(connector, asked, [4, 5, 6, 7], cached=12) == 0
    assert connector.request_finished(asked, []) == (False, asked.kv_transfer_params)
    assert connector.get_num_new_matched_tokens(asked, 0) == (0, False)


def test_a_request_without_a_label_is_left_alone(connector_module: Any, folder: Path) -> None:
    connector = new_connector(connector_module, folder)
    asked = request("0" * 16, kv_transfer_params=None, cache_salt=None)
    connector.on_new_request(asked)

    assert scheduled(connector, asked, [0]) == 0
    assert asked.skip_reading_prefix_cache is True
    assert connector.request_finished(asked, []) == (False, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"cache_salt": None},
        {"cache_salt": "ptl-prefix:0000000000000000"},
        {"prompt_token_ids": [5] * 20},
        {"prompt_token_ids": [0] * LENGTH},
        {"prompt_token_ids": None, "num_tokens": 5},
        {"sampling_params": SimpleNamespace(prompt_logprobs=0)},
        {"sampling_params": None},
        {"lora_request": object()},
        {"mm_features": [object()]},
        {"version": "0000000000000000"},
        {"kv_transfer_params": {"ptl_prefix": 3}},
    ],
)
@pytest.mark.parametrize("cached", [0, 4])
def test_a_request_that_would_be_wrong_fails_alone(
    connector_module: Any, folder: Path, changes: dict[str, Any], cached: int
) -> None:
    connector = new_connector(connector_module, folder)
    changes = dict(changes)
    version = changes.pop("version", version_of(folder / "bundles/towns"))
    if changes.get("prompt_token_ids", 0) is None:
        changes |= {"prompt_token_ids": []}
        changes.pop("num_tokens")
    asked = request(version, **changes)
    asked.num_tokens = max(asked.num_tokens, 9)
    connector.on_new_request(asked)

    assert scheduled(connector, asked, [6, 2, 4, 1], cached=cached) == 1
    for _ in range(2):  # until vLLM has ended it
        layers, failed = loaded(connector_module, folder, connector.build_connector_meta(None))
        assert failed == {(6, 2)[cached // PAGE]}
        assert not layers[0].kv_cache.any()
    assert connector.request_finished(asked, []) == (False, None)
    assert connector.build_connector_meta(None).refused_block_ids == set()


def test_a_bundle_that_was_replaced_or_damaged_fails_its_requests(connector_module: Any, folder: Path) -> None:
    connector = new_connector(connector_module, folder)
    asked = request(version_of(folder / "bundles/towns"))
    connector.on_new_request(asked)
    scheduled(connector, asked, [6, 2, 4, 1])
    meta = connector.build_connector_meta(None)
    newer = write(folder / "bundles/towns", metrics={"test/bleu": 1.0})

    assert loaded(connector_module, folder, meta)[1] == {6, 2, 4}

    again = request(newer, request_id="two")
    connector.on_new_request(again)
    scheduled(connector, again, [6, 2, 4, 1])
    meta = connector.build_connector_meta(None)
    assert loaded(connector_module, folder, meta)[1] == set()
    (folder / "bundles/towns/tensors.safetensors").write_bytes(b"")
    assert loaded(connector_module, folder, meta)[1] == {6, 2, 4}


def test_a_bundle_of_another_model_is_refused(connector_module: Any, folder: Path) -> None:
    other = write(folder / "bundles/other", geometry={"decoder_self": GEOMETRY | {"num_kv_heads": 4}})
    connector = new_connector(connector_module, folder)
    with pytest.raises(ValueError, match="the model must be"):
        connector._bundles.find(other)
    half = write(folder / "bundles/half", dtype="bfloat16")
    with pytest.raises(ValueError, match="must compute in bfloat16"):
        connector._bundles.find(half)
    save_file({"a": torch.zeros(2)}, folder / "model/model.safetensors")
    with pytest.raises(ValueError, match="weights must be those"):
        new_connector(connector_module, folder)._bundles.find(version_of(folder / "bundles/towns"))
    (folder / "model/model.safetensors").unlink()
    with pytest.raises(ValueError, match="check_weights"):
        new_connector(connector_module, folder)
    extra = {"bundles": str(folder / "bundles"), "check_weights": False}
    new_connector(connector_module, folder, kv_connector_extra_config=extra)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"kv_load_failure_policy": "recompute"}, "recomputed placeholders are no prefix"),
        ({"kv_role": "kv_both"}, "kv_consumer"),
        ({"speculative_config": object()}, "draft model"),
        ({"cache_dtype": "fp8"}, "kv_cache_dtype"),
        ({"decode_context_parallel_size": 2}, "context_parallel"),
        ({"kv_connector_extra_config": {"bundles": "/nowhere", "bundle": 1}}, "no setting 'bundle'.*must be a folder"),
    ],
)
def test_settings_of_vllm_that_would_be_wrong_end_the_start(
    connector_module: Any, folder: Path, changes: dict[str, Any], fact: str
) -> None:
    with pytest.raises(ValueError, match=fact):
        new_connector(connector_module, folder, **changes)
    for window in ({"sliding_window": 8}, {"attention_chunk_size": 8}):
        with pytest.raises(ValueError, match="leave a window"):
            connector_module.TrainedPrefixConnector(config(folder), 0, pages(**window))


def test_prefixes_leave_memory_for_others(connector_module: Any, folder: Path) -> None:
    versions = [write(folder / f"bundles/{name}", task=name) for name in "ab"]
    extra = {"bundles": str(folder / "bundles"), "max_prefix_bytes": 5000}
    worker = new_connector(connector_module, folder, role=1, kv_connector_extra_config=extra)
    for name, version in zip("ab", versions, strict=True):
        load = connector_module.PrefixLoad(version, str(folder / f"bundles/{name}"), 0, (0,), (0,))
        worker._prefix(load, torch.device("cpu"))
    assert list(worker._kept) == [versions[1]]


def test_another_version_of_vllm_is_refused_at_import(connector_module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", fake_modules("0.33.0")["vllm"])

    with pytest.raises(ImportError, match=r"before 0\.33"):
        importlib.reload(connector_module)
