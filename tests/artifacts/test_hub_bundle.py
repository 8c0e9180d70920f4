"""Bundles go to the hub and come back, with the hub's own client and a local server."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from support.fake_hub import FakeHub, FakeRepo, fake_hub

from ptl_prefix.artifacts.bundle import BundleContents, read_bundle, write_bundle
from ptl_prefix.artifacts.hub_address import HubAddress
from ptl_prefix.artifacts.hub_bundle import push_bundle
from ptl_prefix.artifacts.model_card import HERE
from ptl_prefix.errors import BundleError, HubError, PtlPrefixError

REPO = "somebody/mill"

# The hub's client uploads to Git LFS by a name that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with fake_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.fixture
def bundle(tmp_path: Path, stated: dict[str, Any]) -> Path:
    """A bundle that was trained on a backbone in a local folder."""
    own = {**stated, "backbone": replace(stated["backbone"], path=str(tmp_path / "private" / "tiny"))}
    own |= {"document_sha256": "0" * 64, "document_path": str(tmp_path / "private" / "manual.txt")}
    write_bundle(tmp_path / "bundle", BundleContents(tensors={"rows": torch.arange(6.0)}, **own))
    return tmp_path / "bundle"


@pytest.fixture
def public(hub: FakeHub, bundle: Path) -> str:
    """The address of a repository with the bundle."""
    hub.add(REPO, bundle)
    return f"hub:{REPO}"


def push(folder: Path, *, private: bool = False, revision: str = "main") -> str:
    card = f"---\nlibrary_name: ptl_prefix\n---\n\n# Mill\n\n{HERE}\n"
    address = HubAddress(REPO, revision)
    return push_bundle(folder, read_bundle(folder).manifest, card, address, private=private).commit


def test_a_pushed_bundle_comes_back_by_branch_and_by_commit(hub: FakeHub, bundle: Path, tmp_path: Path) -> None:
    commit = push(bundle, private=True, revision="v1")

    repo = hub.repos[REPO]
    assert (repo.private, repo.branches["v1"], len(repo.messages)) == (True, commit, 1)
    files = repo.files("v1")
    assert set(files) == {".gitattributes", "README.md", "manifest.json", "tensors.safetensors"}
    assert set(repo.files("main")) == {".gitattributes"}
    assert f"hub:{REPO}" in files["README.md"].decode() and HERE not in files["README.md"].decode()
    assert str(tmp_path) not in files["manifest.json"].decode()
    whole = read_bundle(bundle)
    for address in (f"hub:{REPO}@v1", f"hub:{REPO}@{commit}"):
        fetched = read_bundle(address)
        assert fetched.origin == f"hub:{REPO}@{commit}"
        assert torch.equal(fetched.tensors["rows"], whole.tensors["rows"])
        named = replace(whole.manifest, backbone=replace(whole.manifest.backbone, path="tiny_gpt2"), document_path=None)
        assert fetched.manifest == named


def test_each_push_is_one_commit_and_earlier_ones_stay(hub: FakeHub, bundle: Path) -> None:
    commits = [push(bundle), push(bundle)]

    assert len(hub.repos[REPO].messages) == 2
    assert hub.repos[REPO].branches["main"] == commits[1]
    assert read_bundle(f"hub:{REPO}@{commits[0]}").tensors.keys() == {"rows"}


def test_offline_and_pinned_bundles_need_no_network(hub: FakeHub, public: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = read_bundle(public).origin
    hub.requests.clear()

    assert read_bundle(pinned).origin == pinned
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read_bundle(public).origin == pinned
    assert hub.requests == []


def test_a_moved_branch_is_another_bundle(hub: FakeHub, public: str) -> None:
    before = read_bundle(public).origin
    hub.repos[REPO].commit("main", {"note.txt": b"new"})

    assert read_bundle(public).origin != before
    assert read_bundle(before).origin == before


def test_only_the_files_of_a_bundle_are_fetched(hub: FakeHub, public: str, tmp_path: Path) -> None:
    hub.repos[REPO].commit("main", {"pytorch_model.bin": b"pickle", "README.md": b"# edited", "run.py": b"import os"})

    origin = read_bundle(public).origin

    folder = HubAddress.parse(origin).folder
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "tensors.safetensors"]
    assert not [path for path in folder.iterdir() if path.is_symlink()]
    asked = {request.rpartition("/")[2] for request in hub.requests}
    assert asked == {"manifest.json", "tensors.safetensors"}


def _no_token(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("HF_TOKEN")


def _wrong_token(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("HF_TOKEN", "hf_another")


def _offline(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(constants, "HF_HUB_OFFLINE", True)


def _unreachable(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    patch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )


def _server_error(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    hub.status = 500


def _lying_large(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    hub.states["tensors.safetensors"] = 10**12


def _lying_small(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    hub.sends["manifest.json"] = b" " * (17 * 2**20)


def _lying_little(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    hub.sends["tensors.safetensors"] = b"\0" * 1000


def _cut(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    hub.cuts.add("tensors.safetensors")


def _changed(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    tensors = bytearray(hub.repos[REPO].files()["tensors.safetensors"])
    tensors[-1] ^= 1
    hub.repos[REPO].commit("main", {"tensors.safetensors": bytes(tensors)})


def _nothing(hub: FakeHub, patch: pytest.MonkeyPatch) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (_no_token, "but there is no token; log in with `hf auth login`"),
        (_wrong_token, "but the hub refuses your token (401)"),
        (_offline, "but HF_HUB_OFFLINE is set; unset it"),
        (_unreachable, "http://127.0.0.1:9 cannot be reached (ConnectError); check the network"),
        (_server_error, "answers 500; try again later"),
        (_nothing, "must be private with private=true, but exists and is public"),
    ],
)
def test_a_push_that_fails_is_one_sentence(
    change: Callable[[FakeHub, pytest.MonkeyPatch], None],
    fact: str,
    hub: FakeHub,
    public: str,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(hub, monkeypatch)

    with pytest.raises(HubError) as refusal:
        push(bundle, private=True)

    assert fact in str(refusal.value)
    assert str(refusal.value).startswith(REPO) and "\n" not in str(refusal.value)
    assert hub.repos[REPO].messages == []


@pytest.mark.parametrize(
    ("address", "change", "kind", "fact"),
    [
        ("hub:somebody/none", _nothing, HubError, "no repository of this name is open to you"),
        ("hub:somebody/mill@v9", _nothing, HubError, "it has no such revision"),
        ("hub:somebody/empty", _nothing, HubError, "the repository has no such file"),
        ("hub:somebody/mill", _wrong_token, HubError, "but the hub refuses your token (401)"),
        ("hub:somebody/mill", _offline, HubError, "HF_HUB_OFFLINE is set and it was not fetched before"),
        ("hub:somebody/mill", _unreachable, HubError, "cannot be reached (ConnectError); check the network"),
        ("hub:somebody/mill", _server_error, HubError, "answers 500; try again later"),
        ("hub:somebody/mill", _lying_large, HubError, "tensors.safetensors must have at most"),
        ("hub:somebody/mill", _lying_small, HubError, "manifest.json must have at most 16,777,216 bytes"),
        ("hub:somebody/mill", _lying_little, HubError, "Consistency check failed"),
        ("hub:somebody/mill", _cut, HubError, "cannot be reached"),
        ("hub:somebody/mill", _changed, BundleError, "has other content than its manifest's `tensors_sha256` says"),
        ("hub:mill", _nothing, HubError, "An address on the hub must be hub:<user>/<name>"),
        ("hub:a/../b", _nothing, HubError, "An address on the hub must be hub:<user>/<name>"),
        ("hub:somebody/mill@", _nothing, HubError, "An address on the hub must be hub:<user>/<name>"),
        ("hub:somebody/mill@../../x", _nothing, HubError, "An address on the hub must be hub:<user>/<name>"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(
    address: str,
    change: Callable[[FakeHub, pytest.MonkeyPatch], None],
    kind: type[PtlPrefixError],
    fact: str,
    hub: FakeHub,
    public: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.repos["somebody/empty"] = FakeRepo()
    hub.repos["somebody/empty"].commit("main", {})
    change(hub, monkeypatch)

    with pytest.raises(kind) as refusal:
        read_bundle(address)

    assert fact in str(refusal.value)
    assert "\n" not in str(refusal.value)
