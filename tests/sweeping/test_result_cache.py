"""What determines the results of a run, and when an earlier result replaces a training."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.made_up_runs import make_run

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record, write_record
from ptl_prefix.sweeping import result_cache
from ptl_prefix.sweeping.result_cache import ResultCache, code_fingerprint, content_of, notes_of


def config(**changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "seed": 0,
        "run_id": "a",
        "dry_run": False,
        "resume": None,
        "study": "s",
        "trial": 0,
        "tracking": {"wandb": None},
        "task": {"_target_": "x", "name": "towns", "files": ["one", "two"]},
        "data": {"batch_size": 4, "cache_dir": None},
    }
    return {**whole, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": "b"},
        {"study": None, "trial": None},
        {"trial": 7},
        {"tracking": {"wandb": "online"}},
        {"data": {"batch_size": 4, "cache_dir": "elsewhere"}},
        {"data": {"cache_dir": None, "batch_size": 4}},
    ],
)
def test_settings_without_influence_on_results_keep_the_content(changes: dict[str, Any]) -> None:
    assert content_of(config(**changes)) == content_of(config())


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"data": {"batch_size": 8, "cache_dir": None}},
        {"task": {"_target_": "x", "name": "towns", "files": ["two", "one"]}},
        {"method": {"rank": 4}},
    ],
)
def test_every_other_setting_changes_the_content(changes: dict[str, Any]) -> None:
    assert content_of(config(**changes)) != content_of(config())


def test_other_code_changes_the_content(monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_of(config())
    monkeypatch.setattr(result_cache, "code_fingerprint", lambda: "another")

    assert content_of(config()) != before


def test_the_codes_fingerprint_follows_its_files_and_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "ptl_prefix"
    shutil.copytree(Path(result_cache.__file__).parents[1] / "sweeping", copy / "sweeping")
    monkeypatch.setattr(result_cache, "__file__", str(copy / "sweeping/result_cache.py"))

    def fingerprint() -> str:
        code_fingerprint.cache_clear()
        return code_fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    (copy / "sweeping/liveness.py").write_text("# another\n")
    second = fingerprint()
    assert second != first
    monkeypatch.setattr(result_cache, "library_versions", lambda: {"torch": "0"})
    assert fingerprint() != second
    code_fingerprint.cache_clear()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: write(data / "train.jsonl", "other"),
        lambda data: write(data / "deep/more.jsonl", "more"),
        lambda data: (data / "train.jsonl").rename(data / "dev.jsonl"),
        lambda data: shutil.rmtree(data),
    ],
    ids=["changed", "added", "renamed", "removed"],
)
def test_other_data_changes_the_content(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    data = tmp_path / "data"
    write(data / "train.jsonl", "towns")
    asked = config(task={"data_dir": str(data)})
    before = content_of(asked)
    assert content_of(asked) == before

    change(data)

    assert content_of(asked) != before


def test_a_large_file_is_identified_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_cache, "_MAX_HASHED_BYTES", 3)
    weights = tmp_path / "model.safetensors"
    weights.write_text("weights")
    asked = config(backbone={"path": str(weights)})
    before = content_of(asked)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    monkeypatch.setattr(result_cache, "code_fingerprint", lambda: code)
    code = code_fingerprint()

    assert content_of(asked) == before
    weights.write_text("other weights")
    assert content_of(asked) != before


def test_a_text_that_cannot_be_a_path_is_only_a_text() -> None:
    long = config(method={"init_text": "a table and the text that says the same " * 200, "mark": "\0", "none": ""})

    assert content_of(long) == content_of(long)


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    return ResultCache(tmp_path / "sweeps")


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "sweeps/s/0")


def test_a_run_that_finished_is_found_by_its_content(cache: ResultCache, finished: RunFolder) -> None:
    cache.keep(finished, "abc")

    found = cache.find("abc", "val/loss")

    record = read_record(finished.record)
    assert found is not None
    assert found.folder == finished.path
    assert found.value == record.metrics["val/loss"]
    assert found.notes == notes_of(record)
    assert found.notes["parameters_trained"] == record.parameters.trained
    assert cache.find("abd", "val/loss") is None


def test_a_run_without_the_objective_is_not_found(cache: ResultCache, finished: RunFolder) -> None:
    cache.keep(finished, "abc")

    assert cache.find("abc", "test/nothing") is None


def resume_longer(run: RunFolder) -> None:
    run.config.write_text(run.config.read_text() + "more: 1\n")


def say_something_else(run: RunFolder) -> None:
    record = read_record(run.record)
    write_record(run.record, replace(record, metrics={**record.metrics, "val/loss": 0.0}))


@pytest.mark.parametrize(
    "change",
    [
        lambda run: shutil.rmtree(run.path),
        lambda run: run.record.unlink(),
        lambda run: run.record.write_text("{"),
        lambda run: run.config.unlink(),
        resume_longer,
        say_something_else,
    ],
    ids=["removed", "no record", "damaged", "no config", "another config", "another result"],
)
def test_a_run_that_was_removed_or_changed_is_not_found(
    cache: ResultCache, finished: RunFolder, change: Callable[[RunFolder], None]
) -> None:
    cache.keep(finished, "abc")

    change(finished)

    assert cache.find("abc", "val/loss") is None


def test_a_run_that_did_not_finish_is_not_found(cache: ResultCache, tmp_path: Path) -> None:
    cache.keep(make_run(tmp_path / "sweeps/s/0", status="stopped"), "abc")

    assert cache.find("abc", "val/loss") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"folder": 1}', '{"folder": "x"}'])
def test_a_damaged_entry_is_ignored(cache: ResultCache, finished: RunFolder, tmp_path: Path, text: str) -> None:
    cache.keep(finished, "abc")
    (entry,) = (tmp_path / "sweeps").rglob("abc.json")
    entry.write_text(text)

    assert cache.find("abc", "val/loss") is None
