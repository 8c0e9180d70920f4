"""The cache of fetched runs stays small, and what a process reads stays in it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.mirrored_folders import contents, mirror_of, small_run, write_now

from ptl_prefix.artifacts.remote import cache_room
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.cache_room import cache_in_use, release, remote_cache_folder, trim_cache
from ptl_prefix.artifacts.remote.fetch import fetch_folder, fetch_to_continue, is_any
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import ObjectStoreError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def mirrored(tmp_path: Path, name: str) -> RemoteAddress:
    """A run of about 6,000 bytes in three large files."""
    folder = small_run(tmp_path / name)
    address = RemoteAddress.parse(f"file://{tmp_path}/outputs/task/{name}")
    write_now(mirror_of(folder, address), folder)
    return address


def fetched(tmp_path: Path, name: str, *, age_s: float = 0.0) -> Path:
    """A run in the cache that was used some time ago and is not read any more."""
    folder = fetch_folder(mirrored(tmp_path, name), is_any)
    release(folder)
    used = time.time() - age_s
    entry = remote_cache_folder() / "runs" / folder.relative_to(remote_cache_folder() / "runs").parts[0]
    for path in (entry, *entry.rglob("*")):
        os.utime(path, (used, used))
    return folder


def cached_bytes() -> int:
    root = remote_cache_folder()
    files = [path.stat() for name in ("runs", "objects") for path in (root / name).rglob("*") if path.is_file()]
    return sum({one.st_ino: one.st_size for one in files}.values())


def test_what_was_unused_for_the_longest_time_is_removed(tmp_path: Path) -> None:
    oldest, old, new = (fetched(tmp_path, name, age_s=age) for name, age in (("a", 300), ("b", 200), ("c", 100)))
    before = cached_bytes()

    assert trim_cache(before) == 0
    removed = trim_cache(before - 6000)

    assert not oldest.exists()
    assert contents(old) == contents(tmp_path / "b")
    assert contents(new) == contents(tmp_path / "c")
    assert 6000 <= removed < 9000
    trim_cache(0)
    assert not list((remote_cache_folder() / "objects").rglob("*/*"))
    assert not list((remote_cache_folder() / "runs").iterdir())


def test_a_removed_run_is_fetched_again(tmp_path: Path) -> None:
    fetched(tmp_path, "a")
    trim_cache(0)

    assert contents(fetch_folder(RemoteAddress.parse(f"file://{tmp_path}/outputs/task/a"), is_any)) == contents(
        tmp_path / "a"
    )


def test_what_this_process_reads_stays_until_it_is_released(tmp_path: Path) -> None:
    folder = fetch_folder(mirrored(tmp_path, "a"), is_any)
    again = fetch_folder(RemoteAddress.parse(f"file://{tmp_path}/outputs/task/a"), is_any)
    assert again == folder

    release(again)
    trim_cache(0)
    assert contents(folder) == contents(tmp_path / "a"), "its first reader has not released it"

    release(folder)
    trim_cache(0)
    assert not folder.exists()


_READER = """
import sys
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.fetch import fetch_folder, is_any
print(fetch_folder(RemoteAddress.parse(sys.argv[1]), is_any), flush=True)
sys.stdin.read()
"""


def test_what_another_process_reads_stays_until_it_ends(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _READER, str(mirrored(tmp_path, "a"))]
    reader = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert reader.stdout is not None
        folder = Path(reader.stdout.readline().strip())
        trim_cache(0)
        assert contents(folder) == contents(tmp_path / "a")
    finally:
        reader.kill()
        reader.communicate(timeout=60)

    trim_cache(0)

    assert not folder.exists()
    assert not list((remote_cache_folder() / "readers").iterdir()), "the list of the dead process is gone, too"


def test_nothing_is_removed_while_a_run_is_fetched(tmp_path: Path) -> None:
    folder = fetched(tmp_path, "a")
    with cache_in_use():
        assert trim_cache(0) == 0
        assert folder.exists()


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    kept = fetched(tmp_path, "a")
    root = remote_cache_folder()
    left = [root / "served/abc-1/one/bundle", root / "runs/abc/task/.run.tmp-12", root / ".removed-1/run"]
    for folder in left:
        folder.mkdir(parents=True)
    partial = next((root / "objects").iterdir()) / ".abc.tmp-12"
    partial.write_bytes(b"half")

    trim_cache(10**9)

    assert not partial.exists()
    assert not [folder for folder in left if folder.exists()]
    assert contents(kept) == contents(tmp_path / "a")


def test_the_cache_is_trimmed_after_a_run_was_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_room, "_last_trim", {})
    monkeypatch.setenv(cache_room.MAX_BYTES_VARIABLE, "1000")

    fetch_to_continue(mirrored(tmp_path, "a"), RunFolder(tmp_path / "there"), replaces=False)

    assert contents(tmp_path / "there") == contents(tmp_path / "a")
    assert cached_bytes() < 1000


def test_a_limit_that_is_no_number_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache_room.MAX_BYTES_VARIABLE, "20 GB")

    with pytest.raises(ObjectStoreError, match=r"PTL_PREFIX_REMOTE_CACHE_BYTES must be a number of bytes, but is '20"):
        trim_cache()
