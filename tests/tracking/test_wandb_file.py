from pathlib import Path

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from ptl_prefix.tracking import wandb_file
from ptl_prefix.tracking.wandb_file import is_complete


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file by W&B's library with several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.delenv("WANDB_MODE")
        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True)
        folder = tmp_path_factory.mktemp("wandb")
        run = wandb.init(project="p", id="r", dir=str(folder), mode="offline", reinit="create_new", settings=settings)
        for step in range(40):
            run.log({"step": step, "text": "words " * 500})
        run.finish()
        wandb.teardown()
    return Path(run.settings.sync_file)


def test_the_file_of_an_ended_run_is_complete(file: Path) -> None:
    assert file.stat().st_size > 3 * 32 * 1024
    assert is_complete(file)


def test_a_truncated_file_is_incomplete(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    for size in (*range(0, len(content), 3001), 32 * 1024, 64 * 1024 + 3, len(content) - 1):
        (tmp_path / "torn").write_bytes(content[:size])
        assert not is_complete(tmp_path / "torn"), size


def test_missing_and_foreign_files_are_incomplete(tmp_path: Path) -> None:
    assert not is_complete(tmp_path / "none")
    (tmp_path / "other").write_bytes(b"x" * 100)
    assert not is_complete(tmp_path / "other")


def test_the_field_that_ends_a_file_is_that_of_the_library() -> None:
    assert wandb_internal_pb2.Record.DESCRIPTOR.fields_by_name["exit"].number == wandb_file._EXIT_FIELD  # type: ignore[attr-defined]
