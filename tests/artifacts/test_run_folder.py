"""Names that are safe as folders, the layout of a run folder, and its lock."""

import fcntl
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder, as_name, is_name
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.errors import RunError

OLD_RUN = Path(__file__).parents[1] / "golden/version_0_1/finished"


@pytest.mark.parametrize("text", ["gpt2", "2024-05-06_07.08", "A", "tiny_gpt2", "_x", "a..b"])
def test_a_name_may_hold_letters_digits_dots_underscores_and_dashes(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "...", "a/b", "../a", "a b", "a=b", "a,b", "a\n", "\n", "é", "a\\b", "a\0"]
)
def test_a_name_never_leads_to_another_folder_or_needs_quoting(text: str) -> None:
    assert not is_name(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("openai-community/gpt2", "gpt2"),
        ("/models/My model (new)/", "My-model-new"),
        ("C:\\models\\gpt2", "gpt2"),
        ("../..", "unnamed"),
        ("", "unnamed"),
        ("模型", "unnamed"),
        ("lr=1e-3,seed=2", "lr-1e-3-seed-2"),
        ("Llama-3.2-1B", "Llama-3.2-1B"),
        ("a" * 63 + " b", "a" * 63),
    ],
)
def test_a_label_becomes_a_name(text: str, name: str) -> None:
    assert as_name(text) == name


@given(text=st.text())
def test_every_label_becomes_a_name_and_stays_one(text: str) -> None:
    name = as_name(text)

    assert is_name(name)
    assert as_name(name) == name
    assert len(name) <= 64


def test_everything_of_a_run_lies_in_its_folder(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))

    parts = [run.record, run.config, run.events, run.checkpoints, run.best, run.last, run.bundle]
    names = [str(path.relative_to(tmp_path)) for path in parts]
    assert names == [
        "record.json",
        "config.yaml",
        "events.jsonl",
        "checkpoints",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "bundle",
    ]


def test_a_folder_with_a_config_is_a_run_even_if_it_was_killed_before_its_record(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()

    assert RunFolder.open(tmp_path).path == tmp_path


@pytest.mark.parametrize(("name", "fact"), [("empty", "has no config.yaml"), ("absent", "is not a folder")])
def test_a_folder_without_a_config_is_refused(tmp_path: Path, name: str, fact: str) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(RunError, match=f"{fact}; give the path that `ptl-prefix train` printed"):
        RunFolder.open(tmp_path / name)


def test_the_refusal_of_a_folder_inside_a_run_names_the_run(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()

    with pytest.raises(RunError) as refusal:
        RunFolder.open(tmp_path / "run" / "checkpoints")

    assert f"did you mean {tmp_path / 'run'}?" in str(refusal.value)


def test_a_folder_is_held_by_one_process_at_a_time_and_let_go_at_its_end(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    attempt = (
        f"from ptl_prefix.artifacts.run_folder import RunFolder\nwith RunFolder({str(folder.path)!r}).held(): pass"
    )

    with folder.held():
        refused = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, check=False)
    let_in = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, check=False)

    assert "another process is working in" in refused.stderr
    assert (refused.returncode, let_in.returncode) == (1, 0)


def test_the_process_that_holds_a_folder_can_write_files_in_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    script = (
        "from ptl_prefix.artifacts.atomic import write_atomically\n"
        "from ptl_prefix.artifacts.run_folder import RunFolder\n"
        f"folder = RunFolder({str(folder.path)!r})\n"
        "with folder.held(): write_atomically(folder.config, 'seed: 0')\n"
    )

    subprocess.run([sys.executable, "-c", script], check=True, timeout=180)  # it would wait for itself

    assert folder.config.read_text() == "seed: 0"


def test_is_held_tells_whether_a_process_works_in_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    look = f"from ptl_prefix.artifacts.run_folder import RunFolder\nprint(RunFolder({str(folder.path)!r}).is_held())"
    never = folder.is_held()
    looked_only = folder.path.exists()

    with folder.held():
        held = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)

    assert (never, looked_only, held.stdout.strip(), folder.is_held()) == (False, False, "True", False)


def test_a_call_of_is_held_in_another_process_blocks_no_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.lock.touch()
    with folder.lock.open("r") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.05, lambda: fcntl.flock(look, fcntl.LOCK_UN)).start()

        with folder.held():
            assert folder.is_held()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("record.json", lambda run: read_record(run.record)),
        ("config.yaml", read_config),
        ("events.jsonl", lambda run: read_events(run.events)),
    ],
)
def test_a_run_is_read_behind_a_link_but_no_file_of_it_may_be_one(
    name: str, read: Callable[[RunFolder], object], tmp_path: Path
) -> None:
    shutil.copytree(OLD_RUN, tmp_path / "disk/run")
    (tmp_path / "outputs").symlink_to(tmp_path / "disk")
    run = RunFolder(tmp_path / "outputs/run")
    assert read(run)

    file = run.path / name
    file.rename(tmp_path / name)
    file.symlink_to(tmp_path / name)
    with pytest.raises(RunError, match=f"must be a file of its own, but .*{name} is a symbolic link to"):
        read(run)
