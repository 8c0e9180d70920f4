"""A small folder of configs, so that the command line is tested without a model."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import pytest
from annotated_types import Ge

from ptl_prefix import settings
from ptl_prefix.commands.config import instantiate
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.config.verb_settings import TrainSettings

PRIMARY = """
defaults:
  - _self_
  - task: letters
  - backbone: local
  - decoding: greedy
  - hydra: default
  - experiment: null

seed: 0                  # of everything
run_id: ${run_id:}
dry_run: false
resume: null
study: null
trial: null
"""


class Letters:
    """Stands for a task: cheap to build, and able to report a missing folder."""

    splits = ("train", "validation", "test")
    metrics = ("exact_match",)
    has_teacher = False

    def __init__(self, *, name: str, count: Annotated[int, Ge(1)], data_dir: str | None) -> None:
        if name == "forbidden":
            raise ValueError("`task.name` must not be 'forbidden'.")
        self.data_dir = data_dir

    def problems(self) -> list[str]:
        """A data folder must exist."""
        if self.data_dir is None or Path(self.data_dir).is_dir():
            return []
        return [f"`task.data_dir` must be a folder, but there is none at '{self.data_dir}'."]


class LocalBackbone:
    """Stands for a backbone: one setting must be given."""

    def __init__(self, *, name: str, path: str) -> None:
        self.name = name


@pytest.fixture
def small_conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs in place of the package's own; the working directory is empty."""
    shipped = settings.conf_dir()
    conf = tmp_path / "conf"
    for group in ("task", "backbone", "decoding", "experiment"):
        (conf / group).mkdir(parents=True)
    shutil.copytree(shipped / "hydra", conf / "hydra")
    shutil.copytree(shipped / "trainer", conf / "trainer")
    shutil.copy(shipped / "generation/greedy.yaml", conf / "decoding/greedy.yaml")
    (conf / "train.yaml").write_text("# What is tested.\n" + PRIMARY)
    (conf / "hydra/default.yaml").write_text(
        (conf / "hydra/default.yaml").read_text().replace("/${method.name}", "/small")
    )
    (conf / "task/letters.yaml").write_text(
        "# Letters of the alphabet.\n_target_: ptl_prefix.stand_ins.Letters\nname: letters\ncount: 26\ndata_dir: null\n"
    )
    (conf / "task/digits.yaml").write_text(
        "# Digits, which are fewer.\n_target_: ptl_prefix.stand_ins.Letters\nname: digits\ncount: 10\ndata_dir: null\n"
    )
    (conf / "backbone/local.yaml").write_text(
        "# A folder.\n_target_: ptl_prefix.stand_ins.LocalBackbone\nname: ${label:${.path}}\npath: ???\n"
    )
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(settings, "conf_dir", lambda: conf)
    _import_stand_ins(monkeypatch)
    return conf


def _import_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the stand-ins importable as members of the package, since only those may be built."""
    import sys

    for stand_in in (Letters, LocalBackbone):
        monkeypatch.setattr(stand_in, "__module__", "ptl_prefix.stand_ins")
    stand_ins = SimpleNamespace(Letters=Letters, LocalBackbone=LocalBackbone)
    monkeypatch.setitem(sys.modules, "ptl_prefix.stand_ins", stand_ins)  # type: ignore[arg-type]
    assert instantiate.import_target("ptl_prefix.stand_ins.Letters", "task") is Letters


@pytest.fixture
def verb() -> Verb:
    """The verb of the small folder of configs."""
    return Verb(name="train", summary="", settings=TrainSettings, examples=(), folder_key="resume")
