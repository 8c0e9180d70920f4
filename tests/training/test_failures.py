"""Whatever ends a run leaves a record with the first cause, and a run that can be resumed."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.same_runs import assert_same_run
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.errors import NonFiniteLossError, PtlPrefixError, RunError
from ptl_prefix.training import run_recorder, training_run
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.train import train

SHORT: dict[str, Any] = {"trainer__max_steps": 4, "trainer__val_check_interval": 2}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_a_metric_that_is_not_finite_is_named_and_does_not_stop_the_record(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = run_recorder.score

    def score(*arguments: Any) -> Any:
        scores = usual(*arguments)
        name = next(iter(scores.values))
        scores.values[name] = float("nan")
        return scores

    monkeypatch.setattr(run_recorder, "score", score)

    record = train(tiny_runs.plan(**{**SHORT, "trainer__max_steps": 2}), folder).record

    names = read_events(folder.events)[-1]["non_finite"]
    assert len(names) == 2  # of the bare backbone and of the adapted one
    assert read_record(folder.record) == record
    assert record.status == "finished" and not {*names} & record.metrics.keys() and "val/loss" in record.metrics


def test_a_bare_backbone_whose_loss_is_not_finite_names_the_dtype(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "mean_loss", lambda *_, **__: float("nan"))

    with pytest.raises(NonFiniteLossError, match=r"is nan on the validation split in float32; set `backbone\.dtype`"):
        train(tiny_runs.plan(**SHORT), folder)

    record = read_record(folder.record)
    assert record.status == "failed" and record.metrics == {}
    assert record.error is not None and record.error.startswith("NonFiniteLossError: The loss of the bare")


@pytest.mark.parametrize("lost", ["config.yaml", "events.jsonl", "."])
def test_what_vanishes_while_a_run_works_is_noticed_and_fails_it(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    usual = AdaptationModule.training_step

    def step(self: AdaptationModule, batch: ModelInputs, batch_idx: int) -> Any:
        if batch_idx == 2:
            shutil.rmtree(folder.path) if lost == "." else (folder.path / lost).unlink()
        return usual(self, batch, batch_idx)

    monkeypatch.setattr(AdaptationModule, "training_step", step)

    with pytest.raises(RunError, match=r"must stay where they are until it ends, but .* is gone"):
        train(tiny_runs.plan(**SHORT), folder)

    assert folder.path.exists() == (lost != "."), "a folder that is gone is not made again"
    if lost != ".":
        record = read_record(folder.record)
        assert record.status == "failed" and record.error is not None and "is gone" in record.error


DISK_ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS")
TARGETS: dict[str, tuple[str, ...]] = {
    "checkpoint": (".best.ckpt.tmp-", ".last.ckpt.tmp-"),
    "bundle": (".bundle.tmp-",),
    "events": ("events.jsonl",),
    "record": (".record.json.tmp-",),
    "cache": ("cache-that-fills",),
}


@contextmanager
def refusing(
    monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...], number: int, *, after: int
) -> Iterator[list[str]]:
    """Let the calls of the system that write a matching file fail, once, after the first ones."""
    usual = {name: getattr(os, name) for name in ("open", "write", "fsync", "replace")}
    refused: list[str] = []
    seen = iter(range(10**6))

    def maybe_refuse(path: str) -> None:
        if not refused and any(part in path for part in parts) and next(seen) >= after:
            refused.append(path)
            raise OSError(number, os.strerror(number), path)

    def open_file(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            maybe_refuse(str(path))
        return int(usual["open"](path, flags, *rest, **more))

    def on_descriptor(name: str) -> Callable[..., Any]:
        def call(descriptor: int, *rest: Any) -> Any:
            maybe_refuse(os.readlink(f"/proc/self/fd/{descriptor}"))
            return usual[name](descriptor, *rest)

        return call

    def replace(source: Any, target: Any) -> None:
        maybe_refuse(str(source))
        usual["replace"](source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_file)
        patch.setattr(os, "write", on_descriptor("write"))
        patch.setattr(os, "fsync", on_descriptor("fsync"))
        patch.setattr(os, "replace", replace)
        yield refused


@pytest.fixture(scope="module")
def whole(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    train(tiny_runs.plan(**SHORT), folder)
    return folder


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if ".tmp" in path.name or path.name == ".reserve"]


def check_cell(runs: TinyRuns, folder: RunFolder, whole: RunFolder, patch: pytest.MonkeyPatch, cell: Any) -> None:
    target, code, after = cell
    cache = folder.path.parent / "cache-that-fills"
    changes = {**SHORT, **({"data__cache_dir": str(cache)} if target == "cache" else {})}
    with (
        refusing(patch, TARGETS[target], getattr(errno, code), after=after) as refused,
        pytest.raises(PtlPrefixError) as error,
    ):
        if target == "cache":
            patch_cache(patch, cache, getattr(errno, code), refused)
        train(runs.plan(**changes), folder)
    assert refused, cell
    assert str(folder.path.parent) in str(error.value) and "\n" not in str(error.value), cell
    record = read_record(folder.record)
    assert record.status == "failed" and record.error is not None, cell
    assert os.strerror(getattr(errno, code)) in record.error, cell
    assert leftovers(folder.path.parent) == [], cell

    patch.undo()
    assert train(runs.plan(**changes), folder, resume=True).record.status == "finished"
    assert_same_run(folder, whole)


def patch_cache(patch: pytest.MonkeyPatch, cache: Path, number: int, refused: list[str]) -> None:
    """The cache is written by a library, outside of Python's calls: its first write fails."""
    from ptl_prefix.data import encoded_split

    def refuse(*_: Any) -> Any:
        refused.append(str(cache))
        raise OSError(number, os.strerror(number), str(cache))

    patch.setattr(encoded_split, "_write_rows", refuse)


MOMENTS: dict[str, tuple[int, ...]] = {
    "checkpoint": (0, 1, 4, 9),
    "bundle": (0, 1, 2, 3),
    "events": (0, 1, 5, 9),
    "record": (0, 1, 2, 3),
    "cache": (0, 0, 0, 0),
}
"""The number of calls that succeed before one is refused, for each of `DISK_ERRORS`."""


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_disk_that_refuses_anything_fails_the_run_in_one_sentence_and_loses_nothing(
    tiny_runs: TinyRuns, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    for code, after in zip(DISK_ERRORS, MOMENTS[target], strict=True):
        check_cell(tiny_runs, RunFolder(tmp_path / code / "run"), whole, monkeypatch, (target, code, after))


def test_a_full_disk_fails_a_run_in_one_sentence_and_loses_nothing(
    tiny_runs: TinyRuns, whole: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_cell(tiny_runs, RunFolder(tmp_path / "run"), whole, monkeypatch, ("checkpoint", "ENOSPC", 4))
