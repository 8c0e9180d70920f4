"""What a reader sees of a mirror while networks, stores and processes fail: all of one moment, or nothing."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from support.mirrored_folders import contents, mirror_of, small_run, train_on, write_now
from support.object_store import BUCKET, FaultyStore, wait_until

from ptl_prefix.artifacts import atomic
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.fetch import fetch_folder, fetch_into, fetch_to_continue, is_any
from ptl_prefix.artifacts.remote.find_runs import find_manifests, remove_unnamed_objects
from ptl_prefix.artifacts.remote.mirror import Mirror, ReplacedMirrorError
from ptl_prefix.artifacts.remote.object_store import ObjectStore
from ptl_prefix.artifacts.remote.snapshot import snapshot_of_run
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import ObjectStoreError

KEY = "outputs/task/run"


def test_a_mirrored_folder_is_fetched_as_it_is(address: RemoteAddress, tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")

    write_now(mirror_of(folder, address), folder)

    assert contents(fetch_folder(address, is_any)) == contents(folder.path)


def test_a_second_write_sends_only_what_changed(store: FaultyStore, tmp_path: Path) -> None:
    address = RemoteAddress.parse(f"s3://{BUCKET}/{KEY}")
    folder = small_run(tmp_path / "run")
    mirror = mirror_of(folder, address)
    write_now(mirror, folder)
    (folder.path / "log.txt").write_text("one line\n")
    store.requests.clear()

    write_now(mirror, folder)

    assert len([path for method, path in store.requests if method == "PUT" and "/objects/" in path]) == 1


def test_objects_that_two_manifests_ago_were_named_are_removed(address: RemoteAddress, tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")
    mirror = mirror_of(folder, address)
    manifests = []
    for step in range(2, 6):
        train_on(folder, step)
        manifests.append(write_now(mirror, folder))

    _, objects = ObjectStore(address.scheme).names(address / "objects")

    wanted = {one.sha256 for manifest in manifests[-2:] for one in manifest.files.values()}
    assert set(objects) - {".lock"} == wanted


@pytest.mark.parametrize(
    ("kind", "request_number"),
    [("error", 0), ("error", 5), ("lost", 2), ("lost", 6), ("lost", 8), ("cut", 4), ("cut", 10)],
)
def test_a_failed_request_is_repeated_and_nothing_is_lost(
    store: FaultyStore, tmp_path: Path, kind: str, request_number: int
) -> None:
    address = RemoteAddress.parse(f"s3://{BUCKET}/{KEY}")
    folder = small_run(tmp_path / "run")
    mirror = mirror_of(folder, address)
    write_now(mirror, folder)
    train_on(folder, 2)
    fault = store.fault(kind, times=request_number + 2)
    fault.committed = 0
    seen = itertools.count()
    fault.meets = lambda method, path: next(seen) in (request_number, request_number + 1)  # type: ignore[method-assign]

    write_now(mirror, folder)

    store.heal()
    assert next(seen) > request_number + 1, "the fault was never committed"
    assert contents(fetch_folder(address, is_any)) == contents(folder.path)


@pytest.mark.parametrize("part", ["manifest.json", "/objects/"])
def test_while_the_store_is_gone_readers_keep_the_older_state_and_the_next_write_has_everything(
    store: FaultyStore, tmp_path: Path, part: str
) -> None:
    address = RemoteAddress.parse(f"s3://{BUCKET}/{KEY}")
    folder = small_run(tmp_path / "run")
    mirror = mirror_of(folder, address)
    write_now(mirror, folder)
    old = contents(folder.path)
    train_on(folder, 2)
    store.fault("error", method="PUT", part=part)

    with pytest.raises(ObjectStoreError, match="does not answer as it should"):
        write_now(mirror, folder)

    assert contents(fetch_folder(address, is_any)) == old
    store.heal()
    write_now(mirror, folder)
    assert contents(fetch_folder(address, is_any)) == contents(folder.path)


def test_a_manifest_whose_answer_was_lost_to_the_end_is_known_as_our_own(store: FaultyStore, tmp_path: Path) -> None:
    address = RemoteAddress.parse(f"s3://{BUCKET}/{KEY}")
    folder = small_run(tmp_path / "run")
    mirror = mirror_of(folder, address)
    write_now(mirror, folder)
    train_on(folder, 2)
    store.fault("lost", part="manifest.json")
    with pytest.raises(ObjectStoreError):
        write_now(mirror, folder)
    store.heal()
    train_on(folder, 3)

    write_now(mirror, folder)

    assert contents(fetch_folder(address, is_any)) == contents(folder.path)


class Killed(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


@pytest.mark.parametrize("is_object", [True, False])
def test_a_process_that_is_killed_while_it_writes_a_file_leaves_the_older_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_object: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = RemoteAddress.parse(f"file://{tmp_path}/outputs/task/run")
    folder = small_run(tmp_path / "run")
    write_now(mirror_of(folder, address), folder)
    old = contents(folder.path)
    train_on(folder, 2)
    mirror = mirror_of(folder, address)
    mirror.take_over()

    def half(self: object, source: str, target: str) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        raise Killed

    def half_written(path: Path, content: bytes) -> None:
        is_manifest = path.name.startswith(".manifest.json")
        path.write_bytes(content[:100] if is_manifest else content)
        if is_manifest:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if is_object:
            patch.setattr(LocalFileSystem, "put_file", half)
        else:
            patch.setattr(atomic, "write_new_file", half_written)
        write_now(mirror, folder)

    assert contents(fetch_folder(address, is_any)) == old
    objects = (Path(address.path) / "objects").glob("[0-9a-f]*")
    assert not [path for path in objects if path.stat().st_size == 100], "no half object has its name"
    write_now(mirror_of(folder, address), folder)
    assert contents(fetch_folder(address, is_any)) == contents(folder.path)


_KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from support.mirrored_folders import mirror_of, write_now
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
write_now(mirror_of(folder, RemoteAddress.parse(sys.argv[2])), folder)
"""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["/objects/", "manifest.json"])
def test_an_upload_that_is_killed_leaves_the_older_state_and_is_repeated(
    store: FaultyStore, tmp_path: Path, part: str
) -> None:
    address = RemoteAddress.parse(f"s3://{BUCKET}/{KEY}")
    folder = small_run(tmp_path / "run")
    write_now(mirror_of(folder, address), folder)
    old = contents(folder.path)
    train_on(folder, 2)
    slow = store.fault("slow", method="PUT", part=part, seconds=20.0)
    tests = str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(folder.path), str(address), tests])

    wait_until(lambda: slow.committed > 0, timeout_s=60.0)
    process.kill()
    process.wait()
    store.heal()

    assert contents(fetch_folder(address, is_any)) == old
    write_now(mirror_of(folder, address), folder)
    assert contents(fetch_folder(address, is_any)) == contents(folder.path)


def test_a_late_writer_of_a_run_that_another_machine_has_taken_over_is_refused(
    address: RemoteAddress, tmp_path: Path
) -> None:
    first = small_run(tmp_path / "first")
    late = mirror_of(first, address)
    write_now(late, first)
    second = RunFolder(tmp_path / "second")
    fetch_to_continue(address, second, replaces=False)
    train_on(second, 2)
    write_now(mirror_of(second, address), second)
    train_on(first, 2)

    with pytest.raises(ReplacedMirrorError, match="another one has taken over"):
        write_now(late, first)

    assert contents(fetch_folder(address, is_any)) == contents(second.path)
    with pytest.raises(ReplacedMirrorError, match=r"is older than.*train resume="):
        mirror_of(first, address).require_not_behind()


def test_a_run_takes_no_address_of_another_run(address: RemoteAddress, tmp_path: Path) -> None:
    one, other = small_run(tmp_path / "one"), small_run(tmp_path / "other")
    write_now(mirror_of(one, address), one)

    with pytest.raises(ReplacedMirrorError, match="another one is mirrored"):
        write_now(mirror_of(other, address), other)

    assert contents(fetch_folder(address, is_any)) == contents(one.path)


def test_two_takeovers_at_once_leave_one_writer(address: RemoteAddress, tmp_path: Path) -> None:
    first = small_run(tmp_path / "first")
    write_now(mirror_of(first, address), first)
    folders = [RunFolder(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        fetch_into(address, folder, replaces=False)
    mirrors = [mirror_of(folder, address) for folder in folders]
    write_now(mirrors[0], folders[0])

    with pytest.raises(ReplacedMirrorError):
        write_now(mirrors[1], folders[1])


def test_a_run_is_taken_over_when_it_is_fetched_to_go_on(address: RemoteAddress, tmp_path: Path) -> None:
    first, second = small_run(tmp_path / "first"), RunFolder(tmp_path / "second")
    late = mirror_of(first, address)
    write_now(late, first)
    fetch_into(address, RunFolder(tmp_path / "copy"), replaces=False)
    train_on(first, 2)
    write_now(late, first)  # a copy takes nothing over

    fetch_to_continue(address, second, replaces=False)
    before = contents(second.path)
    train_on(first, 3)
    with pytest.raises(ReplacedMirrorError):
        write_now(late, first)

    assert contents(fetch_folder(address, is_any)) == before
    train_on(second, 3)
    write_now(mirror_of(second, address), second)
    assert contents(fetch_folder(address, is_any)) == contents(second.path)


def test_what_is_written_between_fetch_and_takeover_is_fetched_too(
    address: RemoteAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = small_run(tmp_path / "first"), RunFolder(tmp_path / "second")
    late = mirror_of(first, address)
    write_now(late, first)
    usual, steps = Mirror.take_over, iter([2, 3])

    def interrupted(mirror: Mirror) -> None:
        if mirror.folder == second.path and (step := next(steps, None)) is not None:
            train_on(first, step)
            write_now(late, first)
        usual(mirror)

    monkeypatch.setattr(Mirror, "take_over", interrupted)
    fetch_to_continue(address, second, replaces=False)

    assert next(steps, None) is None
    assert contents(second.path) == contents(first.path)
    with pytest.raises(ReplacedMirrorError):
        write_now(late, first)


def test_the_mirror_of_a_finished_run_is_not_taken_over(address: RemoteAddress, tmp_path: Path) -> None:
    first = small_run(tmp_path / "first")
    mirror, snapshot = mirror_of(first, address), snapshot_of_run(first)
    mirror.write(snapshot, "finished")

    fetch_to_continue(address, RunFolder(tmp_path / "second"), replaces=False)

    mirror.write(snapshot, "finished")


def test_a_run_goes_on_though_the_store_takes_no_writes(store: FaultyStore, tmp_path: Path) -> None:
    address = RemoteAddress.parse(f"s3://{BUCKET}/{KEY}")
    first, second = small_run(tmp_path / "first"), RunFolder(tmp_path / "second")
    write_now(mirror_of(first, address), first)
    store.fault("error", method="PUT")

    fetch_to_continue(address, second, replaces=False)

    assert contents(second.path) == contents(first.path)
    store.heal()
    write_now(mirror_of(second, address), second)


def test_the_owner_of_a_run_writes_its_mirror_whatever_it_has(address: RemoteAddress, tmp_path: Path) -> None:
    first, second = small_run(tmp_path / "first"), RunFolder(tmp_path / "second")
    write_now(mirror_of(first, address), first)
    fetch_to_continue(address, second, replaces=False)
    train_on(first, 2)

    write_now(Mirror(first.path, address, "run", ["task", "run"], is_owner=True), first)

    assert contents(fetch_folder(address, is_any)) == contents(first.path)


def test_a_run_is_read_at_its_address_though_a_listing_does_not_show_it_yet(store: FaultyStore, tmp_path: Path) -> None:
    address = RemoteAddress.parse(f"s3://{BUCKET}/{KEY}")
    root = RemoteAddress.parse(f"s3://{BUCKET}/outputs")
    objects = ObjectStore("s3")
    store.fault("old", method="GET", part="list-type=2")
    assert list(find_manifests(objects, root)) == []
    folder = small_run(tmp_path / "run")

    write_now(mirror_of(folder, address), folder)

    assert list(find_manifests(objects, root)) == [], "the listing is old"
    assert contents(fetch_folder(address, is_any)) == contents(folder.path)
    store.heal()
    assert [str(one) for one, _ in find_manifests(objects, root)] == [str(address)]


def test_a_run_that_an_old_listing_still_shows_is_left_out(store: FaultyStore, tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")
    address = RemoteAddress.parse(f"s3://{BUCKET}/{KEY}")
    write_now(mirror_of(folder, address), folder)
    root = RemoteAddress.parse(f"s3://{BUCKET}/outputs")
    store.fault("old", method="GET", part="list-type=2")
    assert len(list(find_manifests(ObjectStore("s3"), root))) == 1
    store.remove(f"{KEY}/manifest.json")

    assert list(find_manifests(ObjectStore("s3"), root)) == []


def test_damaged_bytes_are_refused_and_do_not_stay_in_the_cache(store: FaultyStore, tmp_path: Path) -> None:
    address = RemoteAddress.parse(f"s3://{BUCKET}/{KEY}")
    folder = small_run(tmp_path / "run")
    manifest = write_now(mirror_of(folder, address), folder)
    key = f"{KEY}/objects/{manifest.files['checkpoints/last.ckpt'].sha256}"
    whole = store.content(key)
    store.put(key, whole[:-1] + b"?")

    with pytest.raises(ObjectStoreError, match="has others"):
        fetch_folder(address, is_any)

    store.put(key, whole)
    assert contents(fetch_folder(address, is_any)) == contents(folder.path)


@pytest.mark.parametrize("is_short", [True, False], ids=["lost bytes", "other bytes"])
def test_an_object_that_is_damaged_in_the_cache_is_fetched_again(
    address: RemoteAddress, tmp_path: Path, is_short: bool
) -> None:
    folder = small_run(tmp_path / "run")
    manifest = write_now(mirror_of(folder, address), folder)
    fetch_folder(address, is_any)
    file = manifest.files["checkpoints/last.ckpt"]
    cached = tmp_path / "cache/ptl_prefix/remote/objects" / file.sha256[:2] / file.sha256
    cached.unlink()
    cached.write_bytes(b"half" if is_short else bytes(file.bytes))

    target = RunFolder(tmp_path / "target")
    fetch_to_continue(address, target, replaces=False)

    assert contents(target.path) == contents(folder.path)


def test_a_manifest_that_leads_out_of_the_folder_is_refused(store: FaultyStore, tmp_path: Path) -> None:
    address = RemoteAddress.parse(f"s3://{BUCKET}/{KEY}")
    folder = small_run(tmp_path / "run")
    write_now(mirror_of(folder, address), folder)
    text = store.content(f"{KEY}/manifest.json").decode()
    store.put(f"{KEY}/manifest.json", text.replace('"config.yaml"', '"../config.yaml"').encode())

    with pytest.raises(ObjectStoreError, match="no path of visible files"):
        fetch_folder(address)


def test_a_folder_with_other_steps_is_not_overwritten(address: RemoteAddress, tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")
    write_now(mirror_of(folder, address), folder)
    other = small_run(tmp_path / "other", step=7)
    before = contents(other.path)

    with pytest.raises(ObjectStoreError, match="holds another run"):
        fetch_to_continue(address, other, replaces=False)
    assert contents(other.path) == before

    fetch_to_continue(address, other, replaces=True)
    assert contents(other.path) == contents(folder.path)


def test_cleaning_removes_only_old_objects_that_no_manifest_names(address: RemoteAddress, tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")
    write_now(mirror_of(folder, address), folder)
    ObjectStore(address.scheme).write(address / "objects" / ("0" * 64), b"left by a killed upload")

    assert remove_unnamed_objects(address, older_than_s=3600) == []
    assert remove_unnamed_objects(address, older_than_s=-3600) == ["0" * 64]
    assert contents(fetch_folder(address, is_any)) == contents(folder.path)
