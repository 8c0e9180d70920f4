"""Atomic writes: old content or new content after errors and after kills at every step; leftovers are removed."""

import errno
import itertools
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_prefix.artifacts import atomic
from ptl_prefix.artifacts.atomic import release_space, reserve_space, write_atomically, write_folder_atomically
from ptl_prefix.errors import StorageError


def fill(folder: Path, word: str, num_files: int = 3) -> None:
    (folder / "inner").mkdir()
    for index in range(num_files):
        (folder / "inner" / f"{index}.txt").write_text(word)


def words_in(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.rglob("*.txt"))]


@settings(max_examples=30)
@given(content=st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.binary()))
def test_what_is_written_is_there(tmp_path_factory: pytest.TempPathFactory, content: str | bytes) -> None:
    path = tmp_path_factory.mktemp("file") / "deeper" / "file"

    write_atomically(path, content)

    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(path.parent) == ["file"]


def test_who_has_the_old_file_open_reads_it_to_its_end(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "old")

    with (tmp_path / "file").open() as reader:
        write_atomically(tmp_path / "file", "new")
        assert reader.read() == "old"


def test_a_failed_file_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, "old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")

    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_files_and_folders_have_the_permissions_that_the_user_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "text")
        with write_folder_atomically(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "bundle"

    with write_folder_atomically(path) as unfinished:
        fill(unfinished, "new")
        assert not path.exists()
        assert unfinished.parent == path.parent and unfinished.name.startswith(".bundle.tmp-")

    assert words_in(path) == ["new"] * 3
    assert os.listdir(path.parent) == ["bundle"]


@pytest.fixture(params=["in one step", "in two steps"])
def way_of_swapping(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "in two steps":
        monkeypatch.setattr(atomic, "_swap", lambda one, other: False)
    return str(request.param)


def test_a_folder_replaces_an_older_one_entirely(tmp_path: Path, way_of_swapping: str) -> None:
    path = tmp_path / "bundle"
    with write_folder_atomically(path) as unfinished:
        fill(unfinished, "old", num_files=5)

    with write_folder_atomically(path) as unfinished:
        fill(unfinished, "new", num_files=2)

    assert words_in(path) == ["new"] * 2
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_inside_the_block_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "bundle"
    with write_folder_atomically(path) as unfinished:
        fill(unfinished, "old")

    with pytest.raises(error), write_folder_atomically(path) as unfinished:
        fill(unfinished, "new")
        raise error

    assert words_in(path) == ["old"] * 3
    assert os.listdir(tmp_path) == ["bundle"]


def test_a_folder_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")

    with pytest.raises(StorageError), write_folder_atomically(tmp_path / "notes") as unfinished:
        fill(unfinished, "new")

    assert (tmp_path / "notes").read_text() == "mine"
    assert os.listdir(tmp_path) == ["notes"]


@pytest.mark.parametrize(
    ("place", "is_folder"),
    [
        ("file", True),
        *itertools.product(["/proc/none", "/proc/none/deep", "file/below", "n" * 300, "/"], [True, False]),
    ],
)
def test_a_place_where_nothing_can_be_made_is_one_sentence(
    place: str, is_folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")

    with pytest.raises(StorageError, match=f"{place} must be written but the disk .*; choose a"):
        if is_folder:
            with write_folder_atomically(place):
                pass
        else:
            write_atomically(place, b"")

    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert Path("file").read_text() == "mine"


def test_links_are_written_through(tmp_path: Path) -> None:
    for name in ("file", "folder"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)

    write_atomically(tmp_path / "file", "text")
    with write_folder_atomically(tmp_path / "folder") as unfinished:
        fill(unfinished, "new")

    assert (tmp_path / "file").is_symlink() and (tmp_path / "disk" / "file").read_text() == "text"
    assert (tmp_path / "folder").is_symlink() and words_in(tmp_path / "disk" / "folder") == ["new"] * 3


def test_the_next_write_sweeps_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".bundle.tmp-dead").mkdir()
    fill(tmp_path / ".bundle.tmp-dead", "half")
    (tmp_path / ".record.json.tmp-dead").write_text("half")
    (tmp_path / ".other.tmp-dead").write_text("not of these two")

    write_atomically(tmp_path / "record.json", "whole")
    with write_folder_atomically(tmp_path / "bundle") as unfinished:
        fill(unfinished, "new")

    assert sorted(os.listdir(tmp_path)) == [".other.tmp-dead", "bundle", "record.json"]


def test_a_write_does_not_sweep_one_that_is_still_going_on(tmp_path: Path) -> None:
    path = tmp_path / "bundle"

    with write_folder_atomically(path) as first:
        with write_folder_atomically(path) as second:
            fill(second, "second")
        assert words_in(path) == ["second"] * 3
        fill(first, "first")

    assert words_in(path) == ["first"] * 3
    assert os.listdir(tmp_path) == ["bundle"]


# Run without torch and without pytest: a process that is killed just before its k-th dealing with the file system, for
# every k. `swap` tells whether the file system's own exchange of folders may be used.
KILLED_AT_EVERY_STEP = """
import os, shutil, signal, sys
from pathlib import Path
from ptl_prefix.artifacts import atomic

os.fsync = lambda descriptor: None  # slow, and of no account for a kill
top, what, swap = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "swap"
if not swap:
    atomic._swap = lambda one, other: False

def write(word):
    if what == "file":
        atomic.write_atomically(top / "file", word * 3)
        return
    with atomic.write_folder_atomically(top / "folder") as unfinished:
        for index in range(3):
            (unfinished / str(index)).write_text(word)

def read():
    if what == "file":
        return (top / "file").read_text() if (top / "file").exists() else None
    if not (top / "folder").exists():
        return None
    return "".join(path.read_text() for path in sorted((top / "folder").iterdir()))

EVENTS = "open os.mkdir os.rename os.remove os.rmdir os.listdir os.scandir shutil.rmtree fcntl.flock".split()

def killed_at(step):
    child = os.fork()
    if child == 0:
        count = 0
        def hook(event, arguments):
            nonlocal count
            if event in EVENTS:
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        write("new")
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

step, killed = 1, True
while killed:
    shutil.rmtree(top); top.mkdir()
    write("old")
    killed = killed_at(step)
    found = read()
    try:
        write("end")
    finally:
        print(found, read(), *sorted(os.listdir(top)))
    step += 1
"""


def results_of_killing(tmp_path: Path, *arguments: str) -> list[list[str]]:
    (tmp_path / "top").mkdir()
    script = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path / "top"), *arguments]
    done = subprocess.run(script, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def whole(word: str) -> str:
    return word * 3


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_kill_at_any_step_leaves_old_or_new_and_nothing_after_the_next_write(tmp_path: Path, what: str) -> None:
    results = results_of_killing(tmp_path, what, "swap")

    assert [found for found, *_ in results] == sorted((found for found, *_ in results), reverse=True)
    assert {found for found, *_ in results} == {whole("old"), whole("new")}
    assert all(rest == [whole("end"), what] for _, *rest in results)
    assert len(results) > 5


def test_without_an_exchange_of_folders_the_next_write_finds_the_old_one_again(tmp_path: Path) -> None:
    results = results_of_killing(tmp_path, "folder", "no-swap")

    # One step has neither: the old folder is aside, and the new one not yet in place.
    assert [found for found, *_ in results].count("None") == 1
    assert {found for found, *_ in results} == {whole("old"), whole("new"), "None"}
    assert all(rest == [whole("end"), "folder"] for _, *rest in results)


def test_an_old_folder_that_was_moved_aside_is_put_back_even_if_the_next_write_fails(tmp_path: Path) -> None:
    (tmp_path / ".bundle.tmp-dead.old").mkdir()
    fill(tmp_path / ".bundle.tmp-dead.old", "old")

    with pytest.raises(ValueError, match="fails too"), write_folder_atomically(tmp_path / "bundle"):
        raise ValueError("fails too")

    assert words_in(tmp_path / "bundle") == ["old"] * 3
    assert os.listdir(tmp_path) == ["bundle"]


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "It took too long."
        time.sleep(0.002)


@pytest.mark.parametrize("after_s", [0.0, 0.003, 0.011, 0.029])
def test_readers_see_whole_folders_while_a_writer_writes_and_is_killed(tmp_path: Path, after_s: float) -> None:
    path = tmp_path / "bundle"
    script = """
        import itertools, sys
        from ptl_prefix.artifacts.atomic import write_folder_atomically
        for turn in itertools.count():
            with write_folder_atomically(sys.argv[1]) as unfinished:
                for index in range(20):
                    (unfinished / str(index)).write_text(str(turn))
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(path)])
    try:
        until(path.exists)
        time.sleep(after_s)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()

    turns = [(path / str(index)).read_text() for index in range(20)]
    assert len(set(turns)) == 1 and turns[0] != ""


DISK_ERRORS = {
    errno.ENOSPC: "is full, or has no inodes left",
    errno.EDQUOT: "has no quota left",
    errno.EIO: "fails",
    errno.EROFS: "is read-only",
}


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("number", DISK_ERRORS)
def test_a_disk_that_refuses_is_one_sentence_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, "old")
    usual = getattr(os, call)

    def refuse(first: object, *rest: object, **more: object) -> object:
        if call == "open" and not str(first).count(".tmp-"):
            return usual(first, *rest, **more)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        with pytest.raises(StorageError) as refusal:
            write_atomically(path, "new")

    assert str(refusal.value).startswith(f"{path} must be written, which needs 3 bytes, but the disk ")
    assert DISK_ERRORS[number] in str(refusal.value)
    assert isinstance(refusal.value, OSError) and refusal.value.errno == number
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_a_write_that_takes_several_calls_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: usual(descriptor, bytes(data)[:3]))
        write_atomically(tmp_path / "file", "0123456789")

    assert (tmp_path / "file").read_text() == "0123456789"


def test_a_link_can_be_replaced_instead_of_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "record.json").symlink_to(tmp_path / "victim")

    write_atomically(tmp_path / "record.json", "new", follow_links=False)

    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "record.json").is_symlink() and (tmp_path / "record.json").read_text() == "new"


def test_reserved_space_is_there_until_it_is_released(tmp_path: Path) -> None:
    reserve = tmp_path / ".reserve"

    reserve_space(reserve, 5000)
    assert reserve.stat().st_size == 5000 and reserve.stat().st_blocks * 512 >= 5000
    reserve_space(reserve, 100)  # enough is there
    assert reserve.stat().st_size == 5000
    release_space(reserve)
    release_space(reserve)

    assert os.listdir(tmp_path) == []
