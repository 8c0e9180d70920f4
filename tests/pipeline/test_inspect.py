"""`ptl-prefix inspect` from the command line."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from support.command_lines import Finished, Invoke

from ptl_prefix.artifacts.inspection import read_inspection
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.inspect import command
from ptl_prefix.commands.inspect.command import _PROMPTS
from ptl_prefix.evaluation import inspection
from ptl_prefix.methods.no_adaptation import NoAdaptation

SOURCE = "name : The Golden Mill | kind : pub | city : Paris"


@pytest.fixture
def run_copy(small_run: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of a run that a test may change."""
    return RunFolder(shutil.copytree(small_run.path, tmp_path / "run"))


def test_a_run_is_inspected_on_its_validation_data(run_copy: RunFolder, invoke: Invoke) -> None:
    result = invoke("inspect", f"bundle={run_copy.path}", "num_examples=3")

    assert result.exit_code == 0, result.output
    folder = run_copy.path / "inspection"
    found = read_inspection(folder / "inspection.json")
    assert (found.task, found.method, found.backbone) == ("table_to_text", "prefix_tuning", "tiny")
    assert (found.num_texts, found.texts) == (3, "from the validation split of table_to_text")
    assert found.sites["decoder_self"].prefix_length == 3
    assert (folder / "inspection.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in folder.iterdir()} == {"inspection.json", "inspection.png"}
    assert result.stdout.splitlines()[-2:] == [
        f"numbers: {folder}/inspection.json",
        f"figure: {folder}/inspection.png",
    ]


def test_the_shipped_backbone_in_its_own_dtype(finished: Finished, invoke: Invoke) -> None:
    result = invoke("inspect", f"bundle={finished.folder.bundle}", SOURCE, "out=seen", "max_words=50", "layer=3")

    assert result.exit_code == 0, result.output
    found = read_inspection("seen/inspection.json")
    assert [nearest.layer for nearest in found.sites["decoder_self"].nearest] == [3]
    assert found.num_words == 50
    assert not (finished.folder.path / "inspection").exists()


def test_sources_come_from_the_command_line_and_a_file(run_copy: RunFolder, invoke: Invoke) -> None:
    Path("sources.txt").write_text("name : The Old Star\ncity : Rome\n")

    result = invoke("inspect", f"bundle={run_copy.bundle}", SOURCE, "input=sources.txt")

    assert result.exit_code == 0, result.output
    found = read_inspection(run_copy.path / "inspection/inspection.json")
    assert (found.num_texts, found.texts) == (3, "from the command line and sources.txt")


def test_a_bundle_without_a_run_is_inspected_on_built_in_prompts(small_run: RunFolder, invoke: Invoke) -> None:
    shutil.copytree(small_run.bundle, "mill")

    result = invoke("inspect", "bundle=mill")

    assert result.exit_code == 0, result.output
    found = json.loads(Path("mill-inspection/inspection.json").read_text())
    assert found["num_texts"] == len(_PROMPTS)
    assert found["texts"] == "built in, because the bundle is in no run folder"
    assert found["texts"] in result.stdout


def test_unreadable_data_is_reported(run_copy: RunFolder, invoke: Invoke) -> None:
    config = yaml.safe_load(run_copy.config.read_text())
    config["task"] = {
        "_target_": "ptl_prefix.data.tasks.text_pairs.TextPairs",
        **yaml.safe_load((Path(__file__).parents[2] / "conf/task/text_pairs.yaml").read_text()),
        "name": "gone",
        "train_file": "gone/train.jsonl",
        "validation_file": "gone/dev.jsonl",
    }
    run_copy.config.write_text(yaml.safe_dump(config))

    result = invoke("inspect", f"bundle={run_copy.path}")

    assert result.exit_code == 0, result.output
    texts = read_inspection(run_copy.path / "inspection/inspection.json").texts
    assert texts.startswith("built in, because the data of the bundle's run is not readable: ")
    assert "gone/train.jsonl" in texts


@pytest.mark.parametrize(
    ("words", "code", "fact"),
    [
        (("bundle=nowhere",), 1, "nowhere"),
        ((), 2, "`bundle` must be given"),
        (("bundle={bundle}", "layer=9"), 2, "`layer` must be one that has a prefix, but is 9"),
        (("bundle={bundle}", "top_k=0", "dead_below=2"), 2, "2 mistakes"),
        (("bundle={bundle}", "input=missing.txt"), 2, "`input` must be a file or - for standard input"),
        (("bundle={bundle}", SOURCE, "out=taken"), 1, "`out` must be a writable folder"),
        (("bundle={bundle}", "backbone=nowhere/at-all"), 1, "but 'nowhere/at-all' is none"),
    ],
)
def test_mistakes_are_reported_in_a_sentence(
    run_copy: RunFolder, invoke: Invoke, words: tuple[str, ...], code: int, fact: str
) -> None:
    Path("taken").write_text("a file")

    result = invoke("inspect", *(word.replace("{bundle}", str(run_copy.bundle)) for word in words))

    assert fact in result.stderr, result.output
    assert result.exit_code == code
    assert "Traceback" not in result.output
    assert not (run_copy.path / "inspection").exists()


def test_a_bundle_of_another_method_is_refused_before_any_weights_load(
    run_copy: RunFolder, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "method_class", lambda kind: NoAdaptation)
    monkeypatch.setattr(command, "load_bundle_backbone", None)  # would be called

    result = invoke("inspect", f"bundle={run_copy.bundle}")

    assert result.exit_code == 1
    assert "`inspect` needs a bundle with a prefix, but this bundle's method is 'prefix_tuning'" in result.stderr
