from pathlib import Path
from typing import Any

import pytest

from ptl_prefix.commands.config.absolute_paths import with_absolute_paths


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("models/gpt2", "gpt2", "tiny_gpt2", "data", "prefix"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "train.csv").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("node", "absolute"),
    [
        ({"path": "models/gpt2"}, "models/gpt2"),
        ({"path": "gpt2"}, "gpt2"),
        ({"path": "../{work}/data"}, "data"),
        ({"path": "~/data"}, "data"),
        ({"train_file": "train.csv"}, "train.csv"),
        ({"data_dir": "./data/"}, "data"),
        ({"init_bundle": "prefix"}, "prefix"),
        ({"parts": {"prefix": {"init_bundle": "prefix"}}}, "prefix"),
    ],
)
def test_a_path_to_something_that_exists_is_absolute(work: Path, node: dict[str, Any], absolute: str) -> None:
    def value_of(part: Any) -> Any:
        return value_of(next(iter(part.values()))) if isinstance(part, dict) else part

    key = next(iter(node))
    if key == "path":
        node = {"path": node["path"].replace("{work}", work.name)}

    assert value_of(with_absolute_paths({"node": node})) == str(work / absolute)


@pytest.mark.parametrize(
    "node",
    [
        {"path": "tiny_gpt2"},  # an embedded backbone comes before a folder of its name
        {"path": "openai-community/gpt2"},
        {"train_file": "missing.csv"},
        {"train_file": None},
        {"path": "x" * 5000},
        {"name": "gpt2", "hub": "data"},
        {"path": "/"},
    ],
)
def test_everything_else_stays_as_it_is(node: dict[str, Any]) -> None:
    assert with_absolute_paths({"seed": 0, "node": node}) == {"seed": 0, "node": node}
