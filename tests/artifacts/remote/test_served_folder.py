"""What a server sees of an address: bundles by name, whatever the store and its listings do."""

from pathlib import Path

import pytest
from support.mirrored_folders import small_run, train_on, write_now
from support.object_store import BUCKET, FaultyStore

from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.mirror import Mirror
from ptl_prefix.artifacts.remote.served_folder import ServedFolder
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import ObjectStoreError

ROOT = RemoteAddress.parse(f"s3://{BUCKET}/served")


def mirrored(path: Path) -> tuple[RunFolder, Mirror]:
    folder = small_run(path)
    mirror = Mirror(path, ROOT / path.name, "run", ["served", path.name])
    write_now(mirror, folder)
    return folder, mirror


def mirrored_at(path: Path, address: RemoteAddress, *, steps: int) -> RunFolder:
    folder = small_run(path)
    mirror = Mirror(path, address, "run", address.names[1:])
    for step in range(steps):
        train_on(folder, step)
        write_now(mirror, folder)
    return folder


def bundles(served: ServedFolder) -> dict[str, bytes]:
    return {path.parent.parent.name: path.read_bytes() for path in served.path.glob("*/bundle/tensors.bin")}


def test_bundles_come_change_and_go(store: FaultyStore, tmp_path: Path) -> None:
    one, mirror = mirrored(tmp_path / "one")
    served = ServedFolder(ROOT, lambda text: None)
    served.begin()
    assert bundles(served) == {"one": (one.bundle / "tensors.bin").read_bytes()}
    assert not (served.path / "one/checkpoints").exists()

    other, _ = mirrored(tmp_path / "other")
    train_on(one, 2)
    write_now(mirror, one)
    served.refresh()
    assert bundles(served) == {
        folder.path.name: (folder.bundle / "tensors.bin").read_bytes() for folder in (one, other)
    }

    store.remove("served/one/manifest.json")
    served.refresh()
    assert list(bundles(served)) == ["other"]
    served.remove()
    assert not served.path.exists()


def test_an_unchanged_bundle_is_not_written_again(store: FaultyStore, tmp_path: Path) -> None:
    mirrored(tmp_path / "one")
    served = ServedFolder(ROOT, lambda text: None)
    served.begin()
    before = (served.path / "one/bundle/tensors.bin").stat()

    served.refresh()

    assert (served.path / "one/bundle/tensors.bin").stat() == before


def test_of_two_runs_with_one_name_the_one_that_had_it_keeps_it(store: FaultyStore, tmp_path: Path) -> None:
    told: list[str] = []
    served = ServedFolder(ROOT, told.append)
    served.begin()
    first = mirrored_at(tmp_path / "x/same", ROOT / "x" / "same", steps=4)
    served.refresh()
    mirrored_at(tmp_path / "a/same", ROOT / "a" / "same", steps=1)
    served.refresh()
    served.refresh()

    assert bundles(served) == {"same": (first.bundle / "tensors.bin").read_bytes()}
    (line,) = told
    assert line.startswith(f"the bundle of {ROOT}/a/same is left out as it is: Each bundle must have a name of its own")
    assert f"'same' is also that of {ROOT}/x/same, which keeps it; remove one of them" in line

    anew = ServedFolder(ROOT, told.append)
    anew.begin()
    assert bundles(anew) == {}, "for a new server neither had the name"
    assert len(told) == 3

    store.remove("served/x/same/manifest.json")
    served.refresh()
    anew.refresh()
    assert bundles(served) == bundles(anew) != {"same": (first.bundle / "tensors.bin").read_bytes()}
    assert list(bundles(served)) == ["same"]


def test_a_damaged_run_is_left_out_or_stays_as_it_was_and_the_others_come(store: FaultyStore, tmp_path: Path) -> None:
    told: list[str] = []
    one, mirror = mirrored(tmp_path / "one")
    served = ServedFolder(ROOT, told.append)
    served.begin()
    before = bundles(served)

    train_on(one, 2)
    damaged = write_now(mirror, one).files["bundle/tensors.bin"].sha256
    whole = store.content(f"served/one/objects/{damaged}")
    store.remove(f"served/one/objects/{damaged}")
    mirrored(tmp_path / "torn")
    store.put("served/torn/manifest.json", store.content("served/torn/manifest.json")[:-20])
    mirrored(tmp_path / "zz")
    served.refresh()
    served.refresh()

    assert bundles(served) == {**before, "zz": (tmp_path / "zz/bundle/tensors.bin").read_bytes()}
    assert sorted(line.partition(" is left out")[0] for line in told) == [
        f"the bundle of {ROOT}/one",
        f"the bundle of {ROOT}/torn",
    ]
    store.put(f"served/one/objects/{damaged}", whole)
    store.put("served/one/manifest.json", b"{}")
    served.refresh()
    assert bundles(served)["one"] == before["one"]


def test_a_bundle_stays_though_a_listing_or_the_store_does_not_show_it(store: FaultyStore, tmp_path: Path) -> None:
    told: list[str] = []
    served = ServedFolder(ROOT, told.append)
    store.fault("old", method="GET", part="list-type=2", times=1)
    served.begin()
    store.heal()
    one, mirror = mirrored(tmp_path / "one")
    served.refresh()
    assert list(bundles(served)) == ["one"]

    empty = (200, {"Content-Type": "application/xml"}, b"<ListBucketResult></ListBucketResult>")
    old = store.fault("old", method="GET", part="list-type=2")
    old.answers = _Always(empty)  # a listing from before the run
    train_on(one, 2)
    write_now(mirror, one)
    served.refresh()
    assert bundles(served) == {"one": (one.bundle / "tensors.bin").read_bytes()}

    store.heal()
    store.fault("error")
    served.refresh()
    served.refresh()
    assert list(bundles(served)) == ["one"]
    store.heal()
    served.refresh()
    assert [text.partition(": ")[0] for text in told] == [
        f"the bundles of {ROOT} stay as they are",
        f"the bundles of {ROOT} can be read again",
    ]


class _Always(dict):  # type: ignore[type-arg]
    """The same answer for every request."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self._answer = answer

    def get(self, key: object, default: object = None) -> object:
        return self._answer


def test_a_store_that_is_not_there_at_the_start_is_an_error(store: FaultyStore) -> None:
    store.fault("error")

    with pytest.raises(ObjectStoreError):
        ServedFolder(ROOT, lambda text: None).begin()
