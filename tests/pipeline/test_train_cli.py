import json
from pathlib import Path

import pytest
import yaml
from support.command_lines import CommandLine, Finished, Invoke

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.run_record import read_record


class TestTheFirstRun:
    def test_leaves_its_folder(self, finished: Finished) -> None:
        left = sorted(path.relative_to(finished.folder.path).as_posix() for path in finished.folder.path.rglob("*.*"))

        (decoded,) = (path for path in left if path.startswith("evaluation/test-"))
        assert left == [
            ".lock",
            "bundle/manifest.json",
            "bundle/routing.safetensors",
            "bundle/tensors.safetensors",
            "checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
            "config.yaml",
            decoded,
            "events.jsonl",
            "record.json",
        ]
        assert read_record(finished.folder.record).status == "finished"
        assert read_bundle(finished.folder.bundle).manifest.task == "table_to_text"

    def test_ends_with_a_table_of_before_and_after(self, finished: Finished) -> None:
        record = read_record(finished.folder.record)
        rows = {line.split()[1]: line for line in finished.process.stdout.splitlines() if line.startswith("│")}

        for name in ("val/loss", "test/exact_match", "test/attribute_accuracy"):
            assert f"{record.metrics[f'{name}_before']:.4f}" in rows[name]
            assert f"{record.metrics[name]:.4f}" in rows[name]
        assert "1,184,768" in finished.process.stdout, "trained"
        assert "20,480" in finished.process.stdout, "stored"
        assert "5,387,776" in finished.process.stdout, "frozen"
        assert "tokens/s" in finished.process.stdout

    def test_shows_three_examples_of_what_it_writes(self, finished: Finished) -> None:
        labels = ("source", "bare", "adapted", "reference")
        starts = [line[:10].strip() for line in finished.process.stdout.splitlines() if line.startswith(" ")]

        assert [start for start in starts if start in labels] == [*labels] * 3

    def test_ends_with_its_path(self, finished: Finished) -> None:
        assert finished.process.stdout.splitlines()[-2:] == [
            f"run:    {finished.folder.path}",
            f"bundle: {finished.folder.bundle}",
        ]

    def test_says_nothing_else_but_its_progress(self, finished: Finished) -> None:
        starts = [line.split()[:2] for line in finished.process.stderr.splitlines()]

        warmup = ["`optimizer.warmup_steps`", "(50)"]  # the default is longer than this run
        assert starts == [warmup, ["evaluating", "the"], ["step", "4/6"], ["step", "6/6"], ["decoding", "with"]]

    def test_keeps_the_config_it_was_started_with(self, finished: Finished) -> None:
        config = yaml.safe_load(finished.folder.config.read_text())

        assert config == read_record(finished.folder.record).config
        assert config["trainer"]["max_steps"] == 6
        assert config["method"]["_target_"].endswith("PrefixTuning")
        assert "hydra" not in config

    def test_logs_one_json_object_a_line(self, finished: Finished) -> None:
        lines = finished.folder.events.read_text().splitlines()

        assert [json.loads(line)["kind"] for line in lines].count("train") == 6


def test_without_a_folder_of_its_own_a_run_lies_where_its_names_say(command_line: CommandLine, invoke: Invoke) -> None:
    result = invoke("train", *command_line.small, "trainer.max_steps=1", "run_id=mine")

    assert result.exit_code == 0, result.output
    assert Path("outputs/table_to_text/tiny/prefix_tuning/mine/record.json").is_file()


def test_a_folder_that_holds_a_run_is_not_written_into(
    finished: Finished, command_line: CommandLine, invoke: Invoke
) -> None:
    before = finished.folder.record.read_bytes()

    result = invoke("train", *command_line.small, f"hydra.run.dir={finished.folder.path}")

    assert result.exit_code == 1
    assert f"resume={finished.folder.path}" in result.stderr
    assert finished.folder.record.read_bytes() == before


def test_every_mistake_is_named_at_once_and_nothing_is_made(invoke: Invoke) -> None:
    result = invoke(
        "train", "optimizer.lr=-1", "method.prefix_lenght=3", "trainer.max_steps=many", "task.num_train=0", "seed=x"
    )

    assert result.exit_code == 2
    assert "The config has 5 mistakes; nothing was loaded:" in result.stderr
    assert "did you mean method.prefix_length" in result.stderr
    assert list(Path.cwd().iterdir()) == []


def test_what_only_the_whole_plan_shows_is_a_mistake_too(command_line: CommandLine, invoke: Invoke) -> None:
    result = invoke("train", *command_line.small, "method.layers=[5]", "generation.max_new_tokens=158")

    assert result.exit_code == 2
    assert "`method.layers` must be from 0 to 1 in tiny, but 5 is not." in result.stderr
    assert list(Path.cwd().iterdir()) == []


def test_a_precision_that_cannot_be_is_named_with_the_other_mistakes(command_line: CommandLine, invoke: Invoke) -> None:
    result = invoke("train", *command_line.small, "trainer.precision=16-mixed", "method.layers=[0,99]")

    assert result.exit_code == 2
    assert "The config has 2 mistakes; nothing was loaded:" in result.stderr
    assert "`trainer.precision` 16-mixed needs a GPU" in result.stderr


def test_a_dry_run_shows_what_would_be_and_makes_nothing(command_line: CommandLine, invoke: Invoke) -> None:
    result = invoke("train", *command_line.embedded, "dry_run=true", "hydra.run.dir=run")

    assert result.exit_code == 0, result.output
    assert "reparam_hidden_size: 512" in result.stdout
    assert "1,184,768" in result.stdout
    assert "20,480" in result.stdout
    assert "6 (1.50 epochs)" in result.stdout
    assert "memory, estimated" in result.stdout
    assert not Path("run").exists()


def test_a_run_that_fails_says_why_in_a_sentence(command_line: CommandLine, invoke: Invoke) -> None:
    result = invoke("train", *command_line.small, "optimizer.lr=1e30", "optimizer.warmup_steps=0", "hydra.run.dir=run")

    assert result.exit_code == 1
    assert "Losses and gradients must be finite, but step 2 gave" in result.stderr
    assert "Traceback" not in result.stderr
    assert read_record("run/record.json").status == "failed"


@pytest.mark.parametrize("argument", ["trainer.gradient_clip_algorithm=value", "trainer.max_time='00:01:00:00'"])
def test_an_argument_of_the_trainer_that_no_yaml_states_can_be_given(
    command_line: CommandLine, invoke: Invoke, argument: str
) -> None:
    result = invoke("train", *command_line.small, argument, "hydra.run.dir=run")

    assert result.exit_code == 0, result.output
    key, value = argument.removeprefix("trainer.").split("=")
    assert read_record("run/record.json").config["trainer"][key] == value.strip("'")
