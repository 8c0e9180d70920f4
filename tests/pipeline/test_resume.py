"""What `train` says and returns when it is stopped and goes on, or cannot."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from support.command_lines import CommandLine, Finished, Invoke

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.training.module import AdaptationModule


class TestWordsAndExitCodes:
    """In this process: the signal comes in the fifth training step."""

    @pytest.fixture(params=[signal.SIGINT, signal.SIGTERM])
    def number(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> signal.Signals:
        usual = AdaptationModule.training_step
        number: signal.Signals = request.param

        def step(module: AdaptationModule, batch: ModelInputs, batch_idx: int) -> torch.Tensor:
            if module.global_step == 4:
                signal.raise_signal(number)
            return usual(module, batch, batch_idx)

        monkeypatch.setattr(AdaptationModule, "training_step", step)
        return number

    def test_a_stopped_run_says_how_to_go_on_and_goes_on(
        self, command_line: CommandLine, invoke: Invoke, number: signal.Signals
    ) -> None:
        stopped = invoke("train", *command_line.small, "hydra.run.dir=run")
        status = read_record("run/record.json").status
        resumed = invoke("train", "resume=run")

        assert stopped.exit_code == 128 + number
        assert "Stopped at step 5." in stopped.stderr
        assert f"ptl-prefix train resume={Path('run').absolute()}" in stopped.stderr
        assert status == "stopped"
        assert resumed.exit_code == 0, resumed.output
        assert read_record("run/record.json").status == "finished"
        assert "val/loss" in resumed.stdout, "the table is shown"


def test_a_finished_run_says_so(finished: Finished, invoke: Invoke) -> None:
    before = finished.folder.record.read_bytes()

    result = invoke("train", f"resume={finished.folder.path}")

    assert result.exit_code == 0
    assert "This run has already finished after 6 steps" in " ".join(result.stderr.split())
    assert finished.folder.record.read_bytes() == before


def test_a_run_goes_on_with_its_own_config_alone(finished: Finished, invoke: Invoke) -> None:
    result = invoke("train", f"resume={finished.folder.path}", "optimizer.lr=1", "seed=2")

    assert result.exit_code == 2
    assert (
        "`resume` must be given alone, as the run has its config, but there is also optimizer.lr, seed."
        in result.stderr
    )


def test_where_there_is_no_run_nothing_goes_on(invoke: Invoke) -> None:
    result = invoke("train", "resume=nowhere")

    assert result.exit_code == 2
    assert "A run must be a folder with a config.yaml, but nowhere is not a folder" in result.stderr


def test_a_run_that_failed_fails_again_at_the_same_step(command_line: CommandLine, invoke: Invoke) -> None:
    words = ("optimizer.lr=1e30", "optimizer.warmup_steps=0", "trainer.val_check_interval=1", "hydra.run.dir=run")
    failures = [invoke("train", *command_line.small, *words), invoke("train", "resume=run")]

    assert [failure.exit_code for failure in failures] == [1, 1]
    sentences = [failure.stderr.splitlines()[-1] for failure in failures]
    assert sentences[0] == sentences[1]
    assert "finite" in sentences[0]


@pytest.mark.parametrize("node", ["trainer", "task"])
def test_a_run_whose_config_lacks_an_object_is_refused(invoke: Invoke, node: str, small_run: RunFolder) -> None:
    shutil.copytree(small_run.path, "copy")
    values = yaml.safe_load(Path("copy/config.yaml").read_text())
    Path("copy/config.yaml").write_text(yaml.safe_dump({key: value for key, value in values.items() if key != node}))

    for words in (["train", "resume=copy"], ["export", "run=copy", "out=x"]):
        result = invoke(*words)

        assert result.exit_code == 1, result.output
        assert f"A run's config must hold an object under `{node}`" in result.stderr
        assert "Traceback" not in result.output
