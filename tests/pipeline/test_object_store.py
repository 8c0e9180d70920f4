"""Every verb that takes a run takes its address: on a machine that shares nothing with the one that trained."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_lines import CommandLine, Invoke
from support.mirrored_folders import contents
from support.object_store import BUCKET, FaultyStore

from ptl_prefix.artifacts.run_folder import RunFolder

pytestmark = pytest.mark.slow

URL = f"s3://{BUCKET}/outputs"
ADDRESS = f"{URL}/table_to_text/tiny/prefix_tuning/one"


@pytest.fixture
def trained(
    store: FaultyStore, command_line: CommandLine, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Train one run, and go to an empty folder, as on another machine; return a function that calls a verb there."""
    result = invoke("train", *command_line.small, "run_id=one", f"outputs_url={URL}", f"hydra.run.dir={tmp_path}/one")
    assert result.exit_code == 0, result.output
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def call(*words: str, code: int = 0) -> str:
        result = invoke(*words)
        assert result.exit_code == code, (result.output, result.exception)
        return str(result.output)

    return call


def test_verbs_read_a_mirrored_run(trained: Callable[..., str], store: FaultyStore, tmp_path: Path) -> None:
    listed = json.loads(trained("runs", URL, "format=json"))
    assert [(one["path"], one["state"], one["step"]) for one in listed] == [(ADDRESS, "finished", 6)]
    assert listed[0]["size_bytes"] == sum(map(len, contents(tmp_path / "one").values()))
    assert not any("checkpoints" in str(path) for path in (tmp_path / "cache").rglob("*"))

    assert "excluded" not in trained("compare", URL, "out=compared")
    assert ADDRESS in Path("compared/comparison.json").read_text()
    assert f"bundle: {ADDRESS}" in trained("generate", ADDRESS, "name : The Eagle")
    trained("evaluate", f"run={ADDRESS}", "num_examples=2", "retention=false", "likelihood=false")
    evaluations = list(Path("outputs/remote").glob("*/*/metrics.json"))
    assert [json.loads(path.read_text())["environment"]["bundle"] for path in evaluations] == [ADDRESS]
    trained("export", f"run={ADDRESS}", "checkpoint=last", "out=exported")
    assert Path("exported").is_dir()

    assert "already finished" in trained("train", f"resume={ADDRESS}")
    assert contents(Path("outputs/table_to_text/tiny/prefix_tuning/one")) == contents(tmp_path / "one")


def test_the_verb_mirror_uploads_fetches_and_cleans(
    trained: Callable[..., str], store: FaultyStore, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "one")
    other = f"s3://{BUCKET}/other"

    assert "is mirrored at" in trained("mirror", str(folder.path), f"outputs_url={other}")
    trained("mirror", f"{other}/table_to_text/tiny/prefix_tuning/one", "out=fetched")
    assert contents(Path("fetched")) == contents(folder.path)

    store.put("other/table_to_text/tiny/prefix_tuning/one/objects/" + "0" * 64, b"left")
    assert "0 objects removed" in trained("mirror", other, "clean=true")
    assert "1 objects removed" in trained("mirror", other, "clean=true", "older_than_h=0")
    assert "needs addresses of mirrored runs" in trained("mirror", str(folder.path), "clean=true", code=2)
    assert "needs run folders, but got none" in trained("mirror", code=2)


def test_a_run_whose_mirror_is_behind_ends_with_a_code_of_its_own(
    store: FaultyStore, command_line: CommandLine, invoke: Invoke, tmp_path: Path
) -> None:
    store.fault("error", part="/one/")

    result = invoke("train", *command_line.small, "run_id=one", f"outputs_url={URL}", f"hydra.run.dir={tmp_path}/one")

    assert result.exit_code == 5, result.output
    assert f"ptl-prefix mirror {tmp_path}/one" in result.output
    store.heal()
    assert invoke("mirror", tmp_path / "one").exit_code == 0
    assert json.loads(invoke("runs", URL, "format=json").output)[0]["state"] == "finished"


def test_a_wrong_outputs_url_is_refused_before_anything_is_loaded(
    store: FaultyStore, command_line: CommandLine, invoke: Invoke
) -> None:
    result = invoke("train", *command_line.small, "outputs_url=s3://no-such-bucket/a", "method.prefix_length=0")

    assert result.exit_code == 2
    assert "The config has 2 mistakes; nothing was loaded" in result.output
    assert "`outputs_url`: s3://no-such-bucket/a/.ptl_prefix must be written, but its bucket" in result.output
