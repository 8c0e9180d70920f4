"""A trial goes on in a folder with the newest state, wherever its last worker was."""

from pathlib import Path

import pytest
from rich.console import Console
from support.mirrored_folders import contents, small_run, train_on, write_now
from support.object_store import BUCKET, FaultyStore
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.remote.mirror import ReplacedMirrorError
from ptl_prefix.artifacts.remote.mirror_run import mirror_of
from ptl_prefix.artifacts.run_config import write_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.train import command
from ptl_prefix.commands.train.resumed_folder import bring_up_to_date, folder_to_resume
from ptl_prefix.errors import ConfigError

TRIAL = {"run_id": "study-0a1b2c-3", "study": "study", "trial": 3, "outputs_url": f"s3://{BUCKET}/outputs"}


@pytest.fixture
def tiny(tmp_path: Path) -> TinyRuns:
    return TinyRuns(tmp_path / "tiny")


def trial_on(path: Path, tiny: TinyRuns) -> RunFolder:
    folder = small_run(path)
    write_config(folder, tiny.config(**TRIAL))
    return folder


def test_a_worker_without_the_folder_gets_the_checkpoint_of_another_machine(
    store: FaultyStore, tiny: TinyRuns, tmp_path: Path
) -> None:
    first = trial_on(tmp_path / "first", tiny)
    write_now(mirror_of(first), first)
    second = RunFolder(tmp_path / "second")
    write_config(second, tiny.config(**TRIAL))  # the scheduler composed it there

    bring_up_to_date(second, Console())

    assert contents(second.path) == contents(first.path)
    # The trial goes on there, and then comes back to the first machine.
    train_on(second, 2)
    write_now(mirror_of(second), second)
    bring_up_to_date(first, Console())
    assert contents(first.path) == contents(second.path)


def test_a_new_trial_and_one_whose_store_is_gone_go_on_from_their_folder(
    store: FaultyStore, tiny: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trial_on(tmp_path / "run", tiny)
    before = contents(folder.path)

    bring_up_to_date(folder, Console())
    assert capsys.readouterr().out == ""
    store.fault("error")
    bring_up_to_date(folder, Console())

    assert "the trial goes on from its folder" in capsys.readouterr().out
    assert contents(folder.path) == before


def test_a_trial_is_fetched_again_if_another_process_wrote_before_it_began(
    store: FaultyStore, tiny: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = trial_on(tmp_path / "first", tiny), RunFolder(tmp_path / "second")
    write_now(mirror_of(first), first)
    write_config(second, tiny.config(**TRIAL))
    found: list[dict[str, bytes]] = []

    def resume(folder: RunFolder, *_: object, **__: object) -> None:
        found.append(contents(folder.path))
        if len(found) == 1:
            train_on(first, 2)
            write_now(mirror_of(first, is_owner=True), first)
            raise ReplacedMirrorError("another one has taken over")

    monkeypatch.setattr(command, "resume_run", resume)

    command.run_frozen(second.path)

    assert len(found) == 2
    assert found[1] == contents(first.path) != found[0]


def test_ranks_of_torchrun_do_not_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RANK": 0,
        "WORLD_SIZE": 2,
        "LOCAL_RANK": 0,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": 1,
    }.items():
        monkeypatch.setenv(name, str(value))

    with pytest.raises(ConfigError, match=r"ptl-prefix mirror s3://runs/a 'out=<folder>'"):
        folder_to_resume("s3://runs/a")
