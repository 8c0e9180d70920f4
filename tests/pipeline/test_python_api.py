"""What a script does with runs, a backbone and its bundles; tests/docs runs the Python blocks of the documents."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support.command_lines import CommandLine

import ptl_prefix
from ptl_prefix import PrefixTuning, load_backbone, load_bundle
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands import python_api
from ptl_prefix.commands.main import cli
from ptl_prefix.errors import ConfigError, RunError

SOURCE = "name : The Golden Mill | kind : pub | city : Paris"


@pytest.fixture(scope="module")
def bundles(command_line: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two bundles of the shipped backbone that write differently."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("bundles") / "run"
        words = [*command_line.embedded, "backbone.dtype=float32", "evaluation.num_examples=2", f"seed={seed}"]
        result = CliRunner().invoke(cli, ["train", *words, f"hydra.run.dir={folder}"])
        assert result.exit_code == 0, result.output
        folders.append(str(folder / "bundle"))
    return folders


def test_a_base_takes_bundles_in_turn_and_is_bare_again(bundles: list[str]) -> None:
    backbone = load_backbone("tiny_gpt2", dtype="float32")
    ids = backbone.tokenizer(SOURCE, return_tensors="pt").input_ids
    bare = backbone.model(ids).logits
    usual_attention = backbone.model.config._attn_implementation

    first = load_bundle(bundles[0], backbone)
    by_first = first.generate([SOURCE], max_new_tokens=12)
    second = load_bundle(bundles[1], backbone)
    by_second = second.generate([SOURCE], max_new_tokens=12)

    assert by_first != by_second
    assert first.generate([SOURCE], max_new_tokens=12) == by_first, "both are there, and do not mix"
    first.detach()
    second.detach()
    assert torch.equal(backbone.model(ids).logits, bare)
    assert backbone.model.config._attn_implementation == usual_attention
    assert torch.equal(backbone.model.generate(ids, max_new_tokens=4, do_sample=False)[:, : ids.shape[1]], ids)


def test_a_method_is_attached_and_detached_by_hand() -> None:
    backbone = load_backbone(dtype="float32")
    ids = backbone.tokenizer(SOURCE, return_tensors="pt").input_ids
    bare = backbone.model(ids).logits

    method = PrefixTuning(prefix_length=4, reparam="none").attach(backbone)
    assert method.num_trainable == 2 * 4 * 4 * 256
    method.detach()

    assert torch.equal(backbone.model(ids).logits, bare)


@pytest.fixture
def small(command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings that make a run short, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return dict(word.split("=", 1) for word in command_line.small if not word.startswith("method.")) | {
        "task.num_train": 64,
        "trainer": {"max_steps": 4, "val_check_interval": 2},
    }


def as_values(settings: dict[str, Any]) -> dict[str, Any]:
    """Words of a command line as the numbers and booleans that a script would write."""
    booleans = {"true": True, "false": False}
    return {
        key: int(value) if str(value).isdigit() else booleans.get(str(value), value) for key, value in settings.items()
    }


def test_a_script_trains_evaluates_compares_and_loads(
    small: dict[str, Any], small_run: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    run = ptl_prefix.train(method=PrefixTuning(prefix_length=3, reparam="none"), quiet=True, **as_values(small))

    assert run.record.status == "finished" and run.record.cost.steps == 4
    assert run.path.parent == Path.cwd() / "outputs/table_to_text/tiny/prefix_tuning"
    assert run.record.config["method"]["reparam"] == "none"
    assert run.bundle == run.path / "bundle"
    assert ptl_prefix.load_run(str(run.path)) == run
    evaluation = ptl_prefix.evaluate(
        run=run, num_examples=2, metrics=["bleu"], likelihood=False, retention=False, quiet=True
    )
    assert set(evaluation.record.metrics) == {"test/bleu"} and len(evaluation.predictions) == 2
    assert capfd.readouterr() == ("", ""), "quiet"
    comparison = ptl_prefix.compare(run, small_run.path, out="compared")
    assert sum(len(table.rows) for table in comparison.tables) == 2
    assert Path("compared/comparison.html").is_file()
    backbone = load_backbone(run.record.config["backbone"]["path"], dtype="float32")
    assert run.load(backbone).generate(["name : The Old Mill"], max_new_tokens=2)

    again = ptl_prefix.train(resume=run.path, **{"trainer.max_steps": 4})
    assert again == run
    assert "already finished" in capfd.readouterr().err


def test_every_mistake_of_a_script_is_in_one_exception(small: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refusal:
        ptl_prefix.train(method="prefx", seed=-1, **{"trainer.max_stps": 3, "task.num_train": object()})
    assert ["`task.num_train`" in mistake for mistake in refusal.value.mistakes] == [True]
    with pytest.raises(ConfigError) as refusal:
        ptl_prefix.train(method="prefx", seed=-1, **{"trainer.max_stps": 3})
    assert len(refusal.value.mistakes) == 3
    with pytest.raises(ConfigError, match="`split` must be 'test'"):
        ptl_prefix.evaluate(run="nowhere", split="dev")
    with pytest.raises(ConfigError, match="`compare` needs runs"):
        ptl_prefix.compare()
    with pytest.raises(RunError, match="nowhere"):
        ptl_prefix.load_run("nowhere")
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(("code", "kind"), [(130, KeyboardInterrupt), (143, SystemExit)])
def test_ctrl_c_stops_a_script_as_it_stops_every_script(
    small: dict[str, Any], monkeypatch: pytest.MonkeyPatch, code: int, kind: type[BaseException]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(python_api, "train_config", stopped)

    with pytest.raises(kind):
        ptl_prefix.train(**as_values(small))


def test_the_package_says_what_there_is() -> None:
    assert dir(ptl_prefix) == sorted(ptl_prefix.__all__)
    for name in ptl_prefix.__all__:
        assert inspect.getdoc(getattr(ptl_prefix, name))
    assert inspect.signature(ptl_prefix.train).parameters["quiet"].default is False
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = ptl_prefix.trian
