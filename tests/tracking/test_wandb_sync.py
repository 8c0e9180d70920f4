"""Which runs are not on the server; uploads are tested in `tests/pipeline/test_wandb.py`."""

from pathlib import Path

import pytest
from support.sink_facts import make_facts

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.tracking import wandb_sync
from ptl_prefix.tracking.wandb_sink import SYNCED_SUFFIX
from ptl_prefix.tracking.wandb_sync import find_unsynced_runs


def run_in(path: Path, *parts: str) -> RunFolder:
    """A run with some of W&B's folders."""
    folder = RunFolder(path)
    path.mkdir(parents=True)
    folder.config.write_text(f"run_id: {make_facts(path).run_id}\n")
    folder.events.write_text("x" * 100)
    for part in parts:
        (path / "wandb" / part).mkdir(parents=True)
        (path / "wandb" / part / "run-a.wandb").write_bytes(b"y" * 10)
    return folder


def test_files_that_were_not_uploaded_are_found_at_any_depth_oldest_first(tmp_path: Path) -> None:
    run_in(tmp_path / "deep/down/b", "offline-run-20240202_000000-a")
    run_in(tmp_path / "a", "run-20240303_000000-a", "offline-run-20240101_000000-a")

    first, second = find_unsynced_runs([tmp_path])

    assert [part.parent.name for part in first.parts] == ["offline-run-20240101_000000-a", "run-20240303_000000-a"]
    assert second.folder.path.name == "b"


def test_uploaded_files_and_the_link_to_the_newest_are_ignored(tmp_path: Path) -> None:
    folder = run_in(tmp_path / "a", "offline-run-20240101_000000-a").path / "wandb"
    (folder / "latest-run").symlink_to(folder / "offline-run-20240101_000000-a")
    assert len(find_unsynced_runs([tmp_path])[0].parts) == 1

    (folder / f"offline-run-20240101_000000-a/run-a.wandb{SYNCED_SUFFIX}").touch()

    assert find_unsynced_runs([tmp_path]) == []


def test_an_untracked_run_is_found_only_if_its_own_folder_is_given(
    tmp_path: Path,
) -> None:
    run_in(tmp_path / "a")

    assert find_unsynced_runs([tmp_path]) == []
    (run,) = find_unsynced_runs([tmp_path / "a"])
    assert run.parts == () and not run.is_complete and run.num_bytes == 100


def test_a_run_whose_files_are_archived_is_found(tmp_path: Path) -> None:
    run_in(tmp_path / "a", "superseded/offline-run-20240101_000000-a")

    (run,) = find_unsynced_runs([tmp_path])

    assert run.parts == ()


def test_a_running_run_is_marked(tmp_path: Path) -> None:
    folder = run_in(tmp_path / "a", "offline-run-20240101_000000-a")

    with folder.held():
        assert find_unsynced_runs([tmp_path])[0].is_running
    assert not find_unsynced_runs([tmp_path])[0].is_running


def test_the_size_of_the_upload_depends_on_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_in(tmp_path / "a", "offline-run-20240101_000000-a")
    (run,) = find_unsynced_runs([tmp_path])
    assert (run.is_complete, run.num_bytes) == (False, 100)

    monkeypatch.setattr(wandb_sync, "is_complete", lambda _: True)

    assert (run.is_complete, run.num_bytes) == (True, 10)
