"""Prefixes for vLLM: rows by position, how a request names them, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ptl_prefix.artifacts.bundle import Bundle, BundleContents, read_bundle, write_bundle
from ptl_prefix.artifacts.paged_prefix import (
    PrefixLabel,
    paged_prefix,
    paged_problem,
    vllm_version_problem,
)

VERSION = "0123456789abcdef"


@pytest.fixture
def bundle(tmp_path: Path, stated: dict[str, Any]) -> Bundle:
    tables = torch.arange(2.0 * 2 * 4 * 5 * 8).reshape(2, 2, 4, 5, 8)
    settings = {"prefix_length": 5, "layers": None, "sites": ["decoder_self"], "position_law": "shifted"}
    tensors = {"decoder_self.keys": tables[0], "decoder_self.values": tables[1]}
    return write_bundle(tmp_path / "bundle", BundleContents(**stated | {"tensors": tensors, "settings": settings}))


def test_rows_are_by_position_and_a_rank_gets_its_own_heads(bundle: Bundle) -> None:
    rows = paged_prefix(bundle)

    assert rows.keys.shape == rows.values.shape == (2, 5, 4, 8)
    for position in range(5):
        assert torch.equal(rows.keys[:, position], bundle.tensors["decoder_self.keys"][:, :, position])
        assert torch.equal(rows.values[:, position], bundle.tensors["decoder_self.values"][:, :, position])
    assert torch.equal(rows.head_slice(rank=1, num_ranks=2).keys, rows.keys[:, :, 2:])
    assert torch.equal(rows.head_slice(rank=5, num_ranks=8).values, rows.values[:, :, 2:3])
    with pytest.raises(ValueError, match="4 heads and 3 ranks"):
        rows.head_slice(rank=0, num_ranks=3)


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"method": "lora"}, "is of `lora`"),
        ({"position_law": "unshifted"}, "is `unshifted`"),
        ({"position_law": "infix"}, "is `infix`"),
        ({"settings": {"prefix_length": 5, "layers": [0]}}, "at some only"),
        ({"geometry": {"encoder_self": {}, "decoder_self": {}}}, "has an encoder"),
        ({"quantization": "torchao_int8"}, "torchao_int8"),
    ],
)
def test_what_vllm_would_compute_otherwise_is_refused(bundle: Bundle, changes: dict[str, Any], fact: str) -> None:
    assert paged_problem(bundle.manifest) is None
    quantization = changes.pop("quantization", None)
    manifest = replace(
        bundle.manifest, **changes, backbone=replace(bundle.manifest.backbone, quantization=quantization)
    )

    assert fact in str(paged_problem(manifest))
    with pytest.raises(ValueError, match="engine=ptl_prefix"):
        paged_prefix(Bundle(manifest, bundle.tensors))


def test_tensors_of_another_shape_are_refused(bundle: Bundle) -> None:
    tensors = {**bundle.tensors, "decoder_self.values": torch.zeros(2, 4, 6, 8)}

    with pytest.raises(ValueError, match=r"`decoder_self.values` must have the shape \(2, 4, 5, 8\)"):
        paged_prefix(Bundle(bundle.manifest, tensors))


def test_a_version_changes_with_the_content(bundle: Bundle, tmp_path: Path) -> None:
    version = read_bundle(tmp_path / "bundle").version
    assert PrefixLabel.of(PrefixLabel(version).kv_transfer_params, PrefixLabel(version).cache_salt) is not None

    manifest = (tmp_path / "bundle/manifest.json").read_text()
    (tmp_path / "bundle/manifest.json").write_text(manifest.replace("\n", "\n ", 1))

    assert read_bundle(tmp_path / "bundle").manifest == bundle.manifest
    assert read_bundle(tmp_path / "bundle").version != version


def test_a_label_is_read_back_and_a_request_without_one_is_for_the_base() -> None:
    label = PrefixLabel(VERSION)

    assert PrefixLabel.of(label.kv_transfer_params, label.cache_salt) == label
    assert PrefixLabel.of(None, None) is None
    assert PrefixLabel.of({"do_remote_prefill": True}, "a salt of somebody") is None


@pytest.mark.parametrize(
    ("parameters", "salt"),
    [
        ({"ptl_prefix": VERSION}, None),
        ({"ptl_prefix": VERSION}, "ptl-prefix:fedcba9876543210"),
        ({"ptl_prefix": "../../etc"}, "ptl-prefix:../../etc"),
        ({"ptl_prefix": [VERSION]}, f"ptl-prefix:{VERSION}"),
        (None, f"ptl-prefix:{VERSION}"),
    ],
)
def test_a_label_that_names_two_prefixes_or_none_is_refused(parameters: Any, salt: str | None) -> None:
    with pytest.raises(ValueError, match="alike"):
        PrefixLabel.of(parameters, salt)


@pytest.mark.parametrize("version", ["0.32.0", "0.32.7+cpu", "0.32.0rc1"])
def test_a_tested_version_of_vllm_is_accepted(version: str) -> None:
    assert vllm_version_problem(version) is None


@pytest.mark.parametrize("version", ["0.31.9", "0.33.0", "1.32.0", "dev", ""])
def test_another_version_of_vllm_is_refused(version: str) -> None:
    assert "from 0.32 and before 0.33" in str(vllm_version_problem(version))
