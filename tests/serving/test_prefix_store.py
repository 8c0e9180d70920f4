"""The store: what is offered, what is held, and what is in memory."""

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from support.served_requests import make_bundle
from support.tiny_backbones import save_tiny_backbone

from ptl_prefix.artifacts.manifest import read_versioned_manifest
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.errors import BundleError, RequestError
from ptl_prefix.serving import prefix_store
from ptl_prefix.serving.prefix_store import PrefixStore


def use_once(store: PrefixStore, version: str) -> None:
    store.hold(version)
    store.use(version)
    store.stop_using(version)
    store.release(version)


@pytest.fixture
def base(tiny_folders: dict[str, Path]) -> Backbone:
    return load_backbone(str(tiny_folders["gpt2"]), name="gpt2", dtype="float32")


def opened(folder: Path, base: Backbone, *, max_bytes: int = 2**20) -> PrefixStore:
    store = PrefixStore(folder, base, max_bytes=max_bytes)
    store.rescan()
    return store


def test_bundles_are_offered_by_the_names_of_their_folders(base: Backbone, tmp_path: Path) -> None:
    for seed, name in enumerate(["summary", "tickets"]):
        make_bundle(base, tmp_path / name, seed=seed)
    (tmp_path / "notes.txt").write_text("not a bundle")

    store = opened(tmp_path, base)

    assert [bundle.name for bundle in store.bundles()] == ["summary", "tickets"]
    summary = store.find("summary")
    assert store.find(summary.model_id) is summary
    assert (summary.num_rows, summary.num_positions, summary.num_bytes) == (2, 2, 2 * 2 * 3 * 32 * 4)
    assert not store.problems


@pytest.mark.parametrize("model", ["other", "summary@0123456789abcdef", "", "../summary", "summary/", "@", "summary@"])
def test_only_names_that_are_offered_are_found(base: Backbone, tmp_path: Path, model: str) -> None:
    make_bundle(base, tmp_path / "summary")
    store = opened(tmp_path, base)

    if model == "summary@":
        assert store.find(model).name == "summary"
    else:
        with pytest.raises(RequestError, match="it offers: summary"):
            store.find(model)


def test_what_cannot_be_served_is_named_with_its_reason(base: Backbone, tmp_path: Path) -> None:
    other = load_backbone(str(save_tiny_backbone("gpt2", tmp_path / "backbone", seed=1)), dtype="float32")
    folder = tmp_path / "bundles"
    make_bundle(base, folder / "good")
    make_bundle(other, folder / "foreign")
    make_bundle(base, folder / "damaged")
    (folder / "damaged" / "manifest.json").write_text("{}")
    make_bundle(base, folder / "a name")
    (folder / "empty").mkdir()
    os.truncate(make_bundle(base, folder / "short") / "tensors.safetensors", 200)

    store = opened(folder, base)

    assert [bundle.name for bundle in store.bundles()] == ["good"]
    assert "weights" in store.problems["foreign"]
    assert "manifest.json" in store.problems["damaged"]
    assert "must match" in store.problems["a name"]
    assert "must hold manifest.json" in store.problems["empty"]
    assert "truncated" in store.problems["short"]
    assert set(store.problems) == {"foreign", "damaged", "a name", "empty", "short"}


def test_of_unchanged_files_nothing_is_read_again(
    base: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(base, tmp_path / "summary")
    (make_bundle(base, tmp_path / "damaged") / "manifest.json").write_text("{}")
    store = opened(tmp_path, base)
    problems = dict(store.problems)
    read: list[str] = []

    def note(folder: Path) -> Any:
        read.append(folder.name)
        return read_versioned_manifest(folder)

    monkeypatch.setattr(prefix_store, "read_versioned_manifest", note)

    assert not store.rescan()

    assert (read, [bundle.name for bundle in store.bundles()]) == ([], ["summary"])
    assert store.problems == problems
    (tmp_path / "damaged/manifest.json").write_text("{} ")
    store.rescan()
    assert read == ["damaged"]


def test_other_tensors_under_the_same_size_and_time_are_refused(base: Backbone, tmp_path: Path) -> None:
    for seed, name in enumerate(["summary", "tickets"]):
        make_bundle(base, tmp_path / name, seed=seed)
    store = opened(tmp_path, base)
    old, file = store.find("summary"), tmp_path / "summary/tensors.safetensors"
    times, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    with pytest.raises(BundleError, match="other content than its manifest's"):
        store.hold(old.version)  # before the folder is read again
    assert store.rescan()

    assert "other content than its manifest's" in store.problems["summary"]
    assert [bundle.name for bundle in store.bundles()] == ["tickets"]


def test_the_folder_is_read_while_requests_go_on(
    base: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(base, tmp_path / "summary")
    store = opened(tmp_path, base)
    make_bundle(base, tmp_path / "tickets", seed=1)
    found: list[str] = []

    def read(folder: Path) -> Any:
        request = threading.Thread(target=lambda: found.append(store.find("summary").name))
        request.start()
        request.join(10)
        return read_versioned_manifest(folder)

    monkeypatch.setattr(prefix_store, "read_versioned_manifest", read)
    assert store.rescan()
    assert found == ["summary"]


def test_a_problem_of_the_machine_is_forgotten_at_the_next_scan(
    base: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(base, tmp_path / "summary")
    with monkeypatch.context() as full:
        full.setattr(prefix_store, "check_tensors_file", lambda *_, **__: raise_(OSError(errno.EMFILE, "too many")))
        store = opened(tmp_path, base)
        assert "too many" in store.problems["summary"]

    assert store.rescan()
    assert store.find("summary")
    assert not store.problems


def raise_(error: Exception) -> None:
    raise error


def test_the_same_content_under_two_names_outlives_one_of_them(base: Backbone, tmp_path: Path) -> None:
    make_bundle(base, tmp_path / "summary")
    shutil.copytree(tmp_path / "summary", tmp_path / "tickets")
    store = opened(tmp_path, base)
    version = store.find("summary").version
    assert store.find("tickets").version == version

    shutil.rmtree(tmp_path / "tickets")
    store.rescan()

    use_once(store, store.find("summary").version)
    assert store.status().num_bundles == 1


def test_a_combination_takes_the_positions_of_its_prefix(base: Backbone, tmp_path: Path) -> None:
    parts = {"first": {"prefix_length": 4, "reparam_hidden_size": 16}, "second": {"rank": 2}}
    make_bundle(base, tmp_path / "both", "prefix_lora", parts=parts)
    make_bundle(base, tmp_path / "lora", "lora")

    store = opened(tmp_path, base)

    assert [(one.num_rows, one.num_positions) for one in map(store.find, ["both", "lora"])] == [(4, 4), (0, 0)]
    assert store.find("both").is_exclusive


def test_another_dtype_is_refused(base: Backbone, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    make_bundle(base, tmp_path / "summary")
    coarse = load_backbone(str(tiny_folders["gpt2"]), name="gpt2", dtype="bfloat16")

    assert "dtype=float32" in opened(tmp_path, coarse).problems["summary"]


def test_a_held_version_survives_its_replacement(base: Backbone, tmp_path: Path) -> None:
    make_bundle(base, tmp_path / "summary", seed=0)
    store = opened(tmp_path, base)
    old = store.find("summary")
    store.hold(old.version)

    shutil.rmtree(tmp_path / "summary")
    make_bundle(base, tmp_path / "summary", seed=3)
    assert store.rescan()

    new = store.find("summary")
    assert new.version != old.version
    assert store.use(old.version).states is not None, "its tensors were read when it was held"
    store.release(old.version)
    with pytest.raises(RequestError):
        store.hold(old.version)
    assert store.status().num_loaded == 0, "the memory of a version that nothing can ask for is freed"


def test_a_version_that_is_replaced_before_it_is_held_is_refused(base: Backbone, tmp_path: Path) -> None:
    make_bundle(base, tmp_path / "summary", seed=0)
    store = opened(tmp_path, base)
    old = store.find("summary")
    shutil.rmtree(tmp_path / "summary")
    make_bundle(base, tmp_path / "summary", seed=3)

    with pytest.raises(BundleError, match="was replaced"):
        store.hold(old.version)

    assert store._versions[old.version].num_holders == 0


def test_unloading_waits_for_the_last_holder(base: Backbone, tmp_path: Path) -> None:
    make_bundle(base, tmp_path / "summary")
    store = opened(tmp_path, base)
    version = store.find("summary").version
    store.hold(version)
    store.hold(version)
    store.use(version)

    store.unload("summary")

    with pytest.raises(RequestError):
        store.find("summary")
    store.release(version)
    assert store.status().num_loaded == 1
    store.release(version)
    assert (store.status().num_loaded, store.status().prefix_bytes) == (0, 0)


def test_an_unloaded_bundle_stays_so_until_it_is_loaded(base: Backbone, tmp_path: Path) -> None:
    make_bundle(base, tmp_path / "summary")
    store = opened(tmp_path, base)
    store.unload("summary")

    assert not store.rescan()
    assert store.load("summary").name == "summary"
    assert store.find("summary").name == "summary"
    with pytest.raises(RequestError, match="there is no such folder"):
        store.load("other")
    with pytest.raises(RequestError):
        store.load("../summary")


def test_the_least_recently_used_prefixes_make_room(base: Backbone, tmp_path: Path) -> None:
    for seed in range(3):
        make_bundle(base, tmp_path / f"task{seed}", seed=4, prefix_length=4 + seed)
    store = opened(tmp_path, base, max_bytes=9000)  # one row of keys and values is 768 bytes
    versions = [store.find(f"task{seed}").version for seed in range(3)]

    for version in (versions[0], versions[1], versions[0], versions[2]):
        use_once(store, version)

    assert list(store._loaded) == [versions[0], versions[2]]
    assert (store.status().num_loads, store.status().num_evictions) == (3, 1)
    assert store.status().prefix_bytes == sum(prefix.num_bytes for prefix in store._loaded.values()) == 10 * 768


def test_a_prefix_in_use_is_not_evicted(base: Backbone, tmp_path: Path) -> None:
    for seed in range(3):
        make_bundle(base, tmp_path / f"task{seed}", seed=4, prefix_length=4 + seed)
    store = opened(tmp_path, base, max_bytes=1)
    versions = [store.find(f"task{seed}").version for seed in range(3)]
    store.hold(versions[0])
    store.use(versions[0])
    for version in versions:
        use_once(store, version)

    assert list(store._loaded) == [versions[0], versions[2]]


def test_a_prefix_is_not_evicted_whose_tensors_a_waiting_request_has_not_read(base: Backbone, tmp_path: Path) -> None:
    for seed in range(2):
        make_bundle(base, tmp_path / f"task{seed}", seed=4, prefix_length=4 + seed)
    store = opened(tmp_path, base, max_bytes=1)
    version, other = (store.find(f"task{seed}").version for seed in range(2))
    use_once(store, version)

    store.hold(version)  # it is in memory, so nothing is read
    use_once(store, other)

    assert store.use(version).num_bytes == 4 * 768
    assert store.status().num_loads == 2


def test_changes_are_told(base: Backbone, tmp_path: Path) -> None:
    make_bundle(base, tmp_path / "summary")
    store = opened(tmp_path, base)
    changes: list[list[str]] = []
    store.on_change = lambda: changes.append([bundle.name for bundle in store.bundles()])

    store.rescan()
    make_bundle(base, tmp_path / "tickets")
    store.rescan()
    shutil.rmtree(tmp_path / "summary")
    store.rescan()
    store.unload("tickets")

    assert changes == [["summary", "tickets"], ["tickets"], []]
