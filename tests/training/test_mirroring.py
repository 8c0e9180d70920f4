"""A run is mirrored while it trains, whatever the store does, and goes on where its folder never was."""

from pathlib import Path

import pytest
from support.mirrored_folders import contents
from support.object_store import BUCKET, FaultyStore
from support.same_runs import assert_same_run
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.remote import background_mirror, mirror_run
from ptl_prefix.artifacts.remote.address import RemoteAddress, run_address
from ptl_prefix.artifacts.remote.background_mirror import BackgroundMirror
from ptl_prefix.artifacts.remote.fetch import fetch_folder, is_any
from ptl_prefix.artifacts.remote.mirror_state import read_mirror_state
from ptl_prefix.artifacts.remote.object_store import ObjectStore
from ptl_prefix.artifacts.remote.open_run import open_to_continue
from ptl_prefix.artifacts.remote.run_manifest import read_manifest_at
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import ObjectStoreError
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.train import train

URL = f"s3://{BUCKET}/outputs"


def address_of(plan: object) -> RemoteAddress:
    address = run_address(plan.config)  # type: ignore[attr-defined]
    assert address is not None
    return address


def test_a_finished_run_is_mirrored_with_everything(store: FaultyStore, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    plan, folder = tiny_runs.plan(outputs_url=URL), RunFolder(tmp_path / "run")

    outcome = train(plan, folder)

    assert outcome.mirror_problem is None
    address = address_of(plan)
    mirrored = contents(fetch_folder(address, is_any))
    assert mirrored == contents(folder.path)
    assert {"config.yaml", "record.json", "events.jsonl", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} < set(
        mirrored
    )
    assert any(name.startswith("bundle/") for name in mirrored)
    found = read_manifest_at(ObjectStore("s3"), address)
    assert found is not None
    assert (found[0].status, found[0].place) == ("finished", ["table_to_text", "tiny", "prefix_tuning", "tiny"])
    # At the beginning, at each of two validations, and at the end; a snapshot that waited may have been replaced.
    assert 2 <= found[0].sequence <= 4
    assert not (folder.path / ".mirror").exists() or not list((folder.path / ".mirror").iterdir())


@pytest.mark.slow
def test_a_store_that_fails_all_the_time_ends_no_training_and_is_told(
    store: FaultyStore, tiny_runs: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, folder = tiny_runs.plan(outputs_url=URL), RunFolder(tmp_path / "run")
    store.fault("error")

    outcome = train(plan, folder)

    assert outcome.record.status == "finished"
    assert outcome.mirror_problem is not None
    assert f"repeat the upload with: ptl-prefix mirror {folder.path}" in outcome.mirror_problem
    assert outcome.mirror_problem in capsys.readouterr().err
    state = read_mirror_state(folder.path)
    assert state is not None
    assert state.behind is not None
    assert store.keys() == []

    store.heal()
    mirror_run.mirror_run(folder)
    assert contents(fetch_folder(address_of(plan), is_any)) == contents(folder.path)
    state = read_mirror_state(folder.path)
    assert state is not None
    assert state.behind is None


def test_the_end_of_a_run_does_not_wait_for_ever(
    store: FaultyStore, tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background_mirror.BackgroundMirror.__init__, "__kwdefaults__", {"final_wait_s": 0.5})
    plan, folder = tiny_runs.plan(outputs_url=URL), RunFolder(tmp_path / "run")
    store.fault("slow", method="PUT", seconds=5.0)

    outcome = train(plan, folder)

    assert outcome.record.status == "finished"
    assert outcome.mirror_problem is not None
    assert "did not take everything" in outcome.mirror_problem


class Killed(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


def end_at_once(mirror: BackgroundMirror) -> None:
    """End a mirror without a snapshot of the end, which a killed process does not take."""
    with mirror._changed:
        mirror._is_ending = True
        mirror._changed.notify_all()
    mirror._thread.join(60.0)


def kill_at_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    usual = AdaptationModule.training_step

    def training_step(self: AdaptationModule, *arguments: object) -> object:
        if self.trainer.global_step == step:
            raise Killed
        return usual(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(AdaptationModule, "training_step", training_step)
    monkeypatch.setattr(BackgroundMirror, "finish", end_at_once)


@pytest.mark.parametrize(
    "step", [pytest.param(2, id="before a checkpoint", marks=pytest.mark.slow), pytest.param(5, id="after one")]
)
def test_a_killed_run_goes_on_on_a_machine_without_its_folder(
    store: FaultyStore, tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    whole = RunFolder(tmp_path / "whole")
    train(tiny_runs.plan(), whole)
    plan, first = tiny_runs.plan(outputs_url=URL), RunFolder(tmp_path / "first")
    with monkeypatch.context() as patch:
        kill_at_step(patch, step)
        with pytest.raises(Killed):
            train(plan, first)
    address = address_of(plan)
    mirrored = contents(fetch_folder(address, is_any))
    assert mirrored.keys() >= {"config.yaml", "events.jsonl"}
    assert ("checkpoints/last.ckpt" in mirrored) == (step > 3)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    folder = open_to_continue(str(address))
    outcome = train(tiny_runs.plan(outputs_url=URL), folder, resume=True)

    assert folder.path == Path("outputs/table_to_text/tiny/prefix_tuning/tiny")
    assert outcome.record.status == "finished"
    assert outcome.mirror_problem is None
    assert_same_run(folder, whole)
    assert contents(fetch_folder(address, is_any)) == contents(folder.path)
    # The first machine has an older state now, and does not go on from it.
    with pytest.raises(ObjectStoreError, match=rf"is older than.*train resume={address}"):
        train(tiny_runs.plan(outputs_url=URL), first, resume=True)


def test_a_new_run_takes_no_address_of_another(store: FaultyStore, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    plan = tiny_runs.plan(outputs_url=URL)
    train(plan, RunFolder(tmp_path / "one"))

    with pytest.raises(ObjectStoreError, match="choose another `run_id`"):
        train(plan, RunFolder(tmp_path / "other"))

    assert not (tmp_path / "other/config.yaml").exists()
