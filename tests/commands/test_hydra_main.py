import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ptl_prefix.commands.config import instantiate
from ptl_prefix.commands.config.arguments import HydraFlags
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.hydra_main import run_with_hydra
from ptl_prefix.errors import ConfigError, DataError, RunError, StorageError

SWEEP = HydraFlags((("--multirun", None),))
HYDRAS_OWN = "hydra/sweeper=basic"

pytestmark = pytest.mark.usefixtures("small_conf", "root_logger")


@pytest.fixture
def root_logger() -> Iterator[None]:
    """Hydra's `--info` sets the root logger up for a process that then ends."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Body:
    """Remembers its calls, and leaves a file in the run's folder."""

    def __init__(self, failing: dict[int, Exception] | None = None) -> None:
        self.calls: list[tuple[dict[str, Any], Path]] = []
        self.failing = failing or {}

    def __call__(self, config: dict[str, Any], run_folder: Path) -> None:
        self.calls.append((config, run_folder))
        (run_folder / "told").touch()
        if error := self.failing.get(config["task"]["count"]):
            raise error


def test_the_body_gets_plain_values_and_the_run_folder(verb: Verb) -> None:
    body = Body()

    run_with_hydra(verb, ["backbone.path=b", "run_id=first"], HydraFlags(), body)

    ((config, folder),) = body.calls
    assert type(config) is dict
    assert type(config["task"]) is dict
    assert config["backbone"] == {"_target_": "ptl_prefix.stand_ins.LocalBackbone", "name": "b", "path": "b"}
    assert folder == Path.cwd() / "outputs/letters/b/small/first"
    assert sorted(path.name for path in folder.iterdir()) == ["told"]


def test_the_folder_carries_the_run_id_of_the_config(verb: Verb) -> None:
    body = Body()

    run_with_hydra(verb, ["backbone.path=b"], HydraFlags(), body)
    run_with_hydra(verb, ["backbone.path=b"], HydraFlags(), body)

    (first, first_folder), (second, second_folder) = body.calls
    assert first["run_id"] == first_folder.name
    assert second["run_id"] == second_folder.name
    assert first["run_id"] != second["run_id"]


def test_a_run_folder_in_which_nothing_was_put_is_taken_away_with_its_new_parents(verb: Verb) -> None:
    Path("outputs").mkdir()

    run_with_hydra(verb, ["backbone.path=b"], HydraFlags(), lambda config, folder: None)

    assert list(Path("outputs").iterdir()) == []


def test_a_disk_that_refuses_the_run_folder_is_one_sentence(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = os.mkdir

    def refuse(path: Any, *rest: Any) -> None:
        if "refused" in str(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        usual(path, *rest)

    monkeypatch.setattr(os, "mkdir", refuse)

    with pytest.raises(StorageError, match="refused must be written but the disk is read-only"):
        run_with_hydra(verb, ["backbone.path=b", "hydra.run.dir=refused"], HydraFlags(), Body())


def test_nothing_is_called_and_no_folder_made_when_the_config_has_mistakes(verb: Verb) -> None:
    body = Body()

    with pytest.raises(ConfigError):
        run_with_hydra(verb, ["backbone.path=b", "seed=-1"], HydraFlags(), body)

    assert body.calls == []
    assert list(Path().iterdir()) == []


def test_an_unexpected_error_leaves_with_the_traceback_of_its_place(verb: Verb) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_with_hydra(verb, ["backbone.path=b", "task.count=2"], HydraFlags(), Body({2: ZeroDivisionError("2")}))

    assert caught.traceback[-1].name == "__call__"


def test_a_resumed_run_goes_on_in_its_own_folder(verb: Verb, small_conf: Path) -> None:
    local = small_conf / "backbone/local.yaml"
    local.write_text(local.read_text().replace("???", "b"))
    run = Path("my runs/a=1,b").absolute()
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    body = Body()

    run_with_hydra(verb, ["resume='my runs/a=1,b'"], HydraFlags(), body)

    assert body.calls[0][1] == run


def test_each_job_of_a_sweep_has_a_folder_and_a_run_id_of_its_own(verb: Verb) -> None:
    body = Body()

    run_with_hydra(verb, [HYDRAS_OWN, "backbone.path=b", "task.count=1,2", "hydra.sweep.dir=s"], SWEEP, body)

    assert [config["task"]["count"] for config, _ in body.calls] == [1, 2]
    assert [folder for _, folder in body.calls] == [Path.cwd() / "s/0", Path.cwd() / "s/1"]
    assert len({config["run_id"] for config, _ in body.calls}) == 2


def test_jobs_that_fail_are_all_told_of_and_stop_no_other(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    body = Body({1: DataError("The file must exist."), 2: ZeroDivisionError("unexpected")})

    with pytest.raises(RunError, match=r"2 of 3 failed: 0, 1"):
        run_with_hydra(verb, [HYDRAS_OWN, "backbone.path=b", "task.count=1,2,3"], SWEEP, body)

    told = capsys.readouterr().err
    assert len(body.calls) == 3
    assert "Job 0 failed: backbone.path=b task.count=1\nThe file must exist.\n" in told
    assert "Job 1 failed: backbone.path=b task.count=2\nTraceback" in told


def test_values_that_only_clash_together_stop_their_job_before_its_body(
    verb: Verb, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    letters = instantiate.import_target("ptl_prefix.stand_ins.Letters", "task")
    build = letters.__init__

    def refuse(self: object, *, name: str, count: int, data_dir: str | None) -> None:
        if name == "b" and count == 2:
            raise ValueError("`task.count` of 'b' must not be 2.")
        build(self, name=name, count=count, data_dir=data_dir)

    monkeypatch.setattr(letters, "__init__", refuse)
    body = Body()

    with pytest.raises(RunError, match="1 of 4 failed: 3"):
        run_with_hydra(verb, [HYDRAS_OWN, "backbone.path=b", "task.name=a,b", "task.count=1,2"], SWEEP, body)

    assert len(body.calls) == 3
    assert "must not be 2" in capsys.readouterr().err


def test_cfg_prints_the_config_and_calls_nothing(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    flags = HydraFlags((("--cfg", "job"), ("--resolve", None)))

    run_with_hydra(verb, ["backbone.path=b", "run_id=me"], flags, Body())

    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["backbone"]["name"] == "b"
    assert shown["run_id"] == "me"
    assert list(Path().iterdir()) == []


def test_info_tells_how_the_config_is_composed(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    run_with_hydra(verb, [], HydraFlags((("--info", "defaults-tree"),)), Body())

    assert "task: letters" in capsys.readouterr().out


def test_hydra_help_is_hydras(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):
        run_with_hydra(verb, [], HydraFlags((("--hydra-help", None),)), Body())

    printed = capsys.readouterr().out
    assert "See https://hydra.cc" in printed
    assert "hydra/sweeper: basic, grid, optuna" in printed
