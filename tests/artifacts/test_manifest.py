"""What a manifest refuses by itself, and which backbone a bundle accepts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptl_prefix.artifacts import manifest as manifests
from ptl_prefix.artifacts.bundle import BackboneIdentity, BundleContents, Manifest, check_backbone, write_bundle
from ptl_prefix.artifacts.manifest import read_manifest
from ptl_prefix.errors import BundleError


@pytest.fixture
def folder(tmp_path: Path, stated: dict[str, Any]) -> Path:
    write_bundle(tmp_path / "bundle", BundleContents(tensors={"keys": torch.ones(2)}, **stated))
    return tmp_path / "bundle"


def change(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"schema_version": 2}, "has the schema_version 2, and this ptl-prefix reads 1"),
        ({"schema_version": None}, "has the schema_version None"),
        ({"added": 1}, "has the unknown key `added`"),
        ({"prompt": {"before": "", "template": "x"}}, "has the unknown key `prompt.template`"),
        ({"stop_ids": ["0"]}, "has '0' as `stop_ids.0`"),
        ({"metrics": {"val/loss": 0.25}}, "does not agree with its own `manifest_sha256`"),
        ({"manifest_sha256": "0" * 64}, "does not agree with its own `manifest_sha256`"),
        ({"manifest_sha256": None}, "does not agree with its own `manifest_sha256`"),
    ],
)
def test_a_foreign_or_edited_manifest_is_refused_by_name(folder: Path, changes: dict[str, Any], fact: str) -> None:
    change(folder, **changes)

    with pytest.raises(BundleError) as refusal:
        read_manifest(folder)

    assert f"{folder / 'manifest.json'} {fact}" in str(refusal.value)


def test_a_manifest_may_be_formatted_otherwise(folder: Path) -> None:
    before = read_manifest(folder)

    change(folder)

    assert read_manifest(folder) == before


def test_a_manifest_that_is_too_long_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_MANIFEST_BYTES", 100)

    with pytest.raises(BundleError, match="is longer than 100 bytes"):
        read_manifest(folder)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])  # a busy machine draws slowly
@given(
    data=st.binary()
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: (
            st.lists(x) | st.dictionaries(st.sampled_from([field.name for field in dataclasses.fields(Manifest)]), x)
        ),
    ).map(lambda v: json.dumps(v).encode())
)
def test_no_content_makes_reading_fail_in_another_way(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "any-manifest"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(data)

    with pytest.raises(BundleError):
        read_manifest(folder)


def test_the_same_backbone_is_accepted_wherever_it_lies(folder: Path, identity: BackboneIdentity) -> None:
    check_backbone(read_manifest(folder), dataclasses.replace(identity, name="mine", path="/models/mine"))


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"weights_fingerprint": "c" * 64}, "but the weights of 'mine' from '/models/mine' differ"),
        ({"tokenizer_fingerprint": "c" * 64}, "but the tokenizer of 'mine' from '/models/mine' differ"),
        ({"family": "llama", "weights_fingerprint": "c" * 64}, "but the model family and weights of 'mine'"),
    ],
)
def test_another_backbone_is_refused_by_what_differs(
    folder: Path, identity: BackboneIdentity, changes: dict[str, str], fact: str
) -> None:
    other = dataclasses.replace(identity, name="mine", path="/models/mine", **changes)

    with pytest.raises(BundleError) as refusal:
        check_backbone(read_manifest(folder), other)

    assert fact in str(refusal.value)
    assert "'tiny_gpt2' from 'tiny_gpt2'" in str(refusal.value)
