import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_runs import TinyRuns
from torch import Tensor

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.predictions import read_predictions
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.data.tasks.text_pairs import TextPairs
from ptl_prefix.errors import NonFiniteLossError
from ptl_prefix.evaluation.decode import DecodingJob, decode
from ptl_prefix.evaluation.loss import mean_loss
from ptl_prefix.evaluation.scoring import score
from ptl_prefix.methods.restore import restore
from ptl_prefix.training.export import export_bundle, load_trained_state
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.run_inputs import load_run_inputs
from ptl_prefix.training.train import train
from ptl_prefix.training.training_run import Outcome


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def events_of(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder.events) if event["kind"] == kind]


def step_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["global_step"])


@pytest.mark.parametrize(
    ("max_steps", "interval", "validated"),
    [(6, 3, [3, 6]), (7, 3, [3, 6, 7]), (4, 100, [4]), (3, 1, [1, 2, 3])],
)
def test_the_last_step_is_always_validated_and_only_once(
    tiny_runs: TinyRuns, folder: RunFolder, max_steps: int, interval: int, validated: list[int]
) -> None:
    outcome = train(tiny_runs.plan(trainer__max_steps=max_steps, trainer__val_check_interval=interval), folder)

    assert [event["step"] for event in events_of(folder, "validation")] == validated
    assert step_of(folder.last) == outcome.record.cost.steps == max_steps


def test_with_accumulation_validations_fall_between_steps(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    plan = tiny_runs.plan(
        trainer__max_steps=5, trainer__accumulate_grad_batches=4, trainer__val_check_interval=6, data__batch_size=2
    )

    outcome = train(plan, folder)

    assert [event["step"] for event in events_of(folder, "validation")] == [2, 4, 5]
    # 20 batches are one epoch, so that every token has been seen once.
    inputs = load_run_inputs(plan)
    assert outcome.record.cost.tokens == sum(int(batch.attention_mask.sum()) for batch in inputs.train)


def test_max_epochs_ends_a_run(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    plan = tiny_runs.plan(trainer__max_steps=-1, trainer__max_epochs=2, trainer__val_check_interval=0.5)

    outcome = train(plan, folder)

    assert outcome.record.cost.steps == 20
    assert [event["step"] for event in events_of(folder, "validation")] == [5, 10, 15, 20]


def test_early_stopping_ends_a_run_without_improvement_and_says_so(
    tiny_runs: TinyRuns, folder: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = tiny_runs.plan(
        trainer__max_steps=50,
        trainer__val_check_interval=2,
        optimizer__early_stopping_patience=2,
        optimizer__early_stopping_min_delta=100.0,
    )

    outcome = train(plan, folder)

    assert [event["step"] for event in events_of(folder, "validation")] == [2, 4, 6]
    assert outcome.record.status == "finished"
    assert outcome.record.cost.steps == 6
    assert outcome.record.budget == {"steps": 50}
    sentence = "early stopping at step 6 of 50: val/loss has not fallen by more than 100 in 2 validation(s)"
    assert sentence in capfd.readouterr().err
    assert any(event["note"].startswith(sentence) for event in events_of(folder, "note"))


def test_training_makes_the_loss_smaller(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    metrics = train(tiny_runs.plan(trainer__max_steps=20, trainer__val_check_interval=20), folder).record.metrics

    assert metrics["val/loss"] < metrics["val/loss_before"] - 0.2


def test_events_are_in_order_one_line_each(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    train(tiny_runs.plan(trainer__max_steps=4, trainer__val_check_interval=2, trainer__log_every_n_steps=2), folder)

    assert [(event["kind"], event["step"]) for event in read_events(folder.events)] == [
        ("begun", 0),
        ("inputs", 0),
        ("encoded", 0),
        ("encoded", 0),
        ("bare", 0),
        ("attached", 0),
        ("train", 2),
        ("validation", 2),
        ("train", 4),
        ("validation", 4),
        ("finished", 4),
    ]
    assert len(folder.events.read_text().splitlines()) == 11
    (first, _) = events_of(folder, "train")
    costs = {"tokens_per_s", "train_s", "tokens"}
    assert first.keys() == {"time_s", "kind", "step", "train/loss", "train/grad_norm", "lr"} | costs


def test_the_learning_rate_of_each_step_is_that_of_the_schedule(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    plan = tiny_runs.plan(optimizer__lr=0.04, optimizer__warmup_steps=2, trainer__accumulate_grad_batches=2)

    train(plan, folder)

    rates = [event["lr"] for event in events_of(folder, "train")]
    assert rates == pytest.approx([0.02, 0.04, 0.04, 0.03, 0.02, 0.01])


def test_val_loss_of_the_record_is_that_of_the_best_checkpoint(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    plan = tiny_runs.plan(optimizer__lr=0.9, trainer__max_steps=8, trainer__val_check_interval=2)
    record = train(plan, folder).record
    losses = {event["step"]: event["val/loss"] for event in events_of(folder, "validation")}
    best_step = min(losses, key=lambda step: losses[step])
    assert best_step != 8, "the last must not be the best, or this shows nothing"

    fresh = tiny_runs.plan()
    inputs = load_run_inputs(fresh)
    method = fresh.method.attach(inputs.backbone)
    load_trained_state(method, folder.best)

    assert record.metrics["val/loss"] == losses[best_step]
    assert step_of(folder.best) == best_step
    assert mean_loss(inputs.backbone, method, inputs.validation) == pytest.approx(losses[best_step], rel=1e-6)


def test_metrics_of_the_record_come_back_when_the_bundle_is_evaluated(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    plan = tiny_runs.plan(trainer__max_steps=20)
    outcome = train(plan, folder)
    fresh = tiny_runs.plan()
    inputs = load_run_inputs(fresh)
    adaptation = restore(inputs.backbone, read_bundle(folder.bundle))

    job = DecodingJob(
        backbone=inputs.backbone,
        method=adaptation.method,
        prompter=inputs.prompter,
        rows=inputs.decoded_rows,
        decoding=fresh.decoding,
        batch_size=2,
        reserved_positions=3,
    )

    outputs = decode(job)

    assert outputs == outcome.adapted
    values = score(outputs, fresh.task.metrics).values
    assert {f"test/{name}": value for name, value in values.items()}.items() <= outcome.record.metrics.items()
    assert mean_loss(inputs.backbone, adaptation.method, inputs.validation) == pytest.approx(
        outcome.record.metrics["val/loss"], rel=1e-5
    )


def test_the_bundle_is_the_export_of_the_best_checkpoint(
    tiny_runs: TinyRuns, folder: RunFolder, tmp_path: Path
) -> None:
    record = train(
        tiny_runs.plan(optimizer__lr=0.9, trainer__max_steps=8, trainer__val_check_interval=2), folder
    ).record
    fresh = tiny_runs.plan()
    inputs = load_run_inputs(fresh)
    method = fresh.method.attach(inputs.backbone)
    load_trained_state(method, folder.best)

    exported = export_bundle(
        tmp_path / "exported",
        backbone=inputs.backbone,
        method=method.eval(),
        task=fresh.task,
        prompter=inputs.prompter,
        decoding=fresh.decoding,
        metrics=record.metrics,
    )

    written = read_bundle(folder.bundle)
    assert all(torch.equal(tensor, exported.tensors[name]) for name, tensor in written.tensors.items())
    assert written.manifest.tensors_sha256 == exported.manifest.tensors_sha256
    assert written.manifest.metrics == record.metrics


def test_the_record_is_complete(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    plan = tiny_runs.plan(seed=5)

    outcome = train(plan, folder)

    written = json.loads(folder.record.read_text())
    assert list(written) == [
        "schema_version",
        "run_id",
        "status",
        "task",
        "task_version",
        "backbone",
        "method",
        "seed",
        "config",
        "study",
        "trial",
        "budget",
        "parameters",
        "cost",
        "decoding",
        "metrics",
        "metric_info",
        "environment",
        "error",
        "fingerprints",
        "accepted_changes",
        "selection",
        "ranking",
        "learning_rate",
    ]
    assert (written["status"], written["run_id"], written["seed"]) == ("finished", "tiny", 5)
    assert (written["task"], written["backbone"], written["method"]) == ("table_to_text", "tiny", "prefix_tuning")
    assert written["config"] == dict(plan.config)
    assert written["budget"] == {"steps": 6}
    assert written["metrics"].keys() == written["metric_info"].keys()
    assert written["metrics"].keys() == {
        "val/loss",
        "val/loss_before",
        "test/exact_match",
        "test/exact_match_before",
        "test/attribute_accuracy",
        "test/attribute_accuracy_before",
    }
    assert written["metric_info"]["val/loss"]["scale"] == "nats per target token"
    assert written["cost"].pop("skipped_steps") == 0
    assert min(written["cost"].values()) > 0
    assert written["decoding"]["max_new_tokens"] == 4
    assert read_record(folder.record) == outcome.record


def test_the_folder_holds_what_a_run_leaves_and_nothing_else(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    outcome = train(tiny_runs.plan(), folder)

    left = sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file())
    (decoded,) = folder.evaluation.rglob("*.jsonl")
    assert decoded.parent.name.startswith("test-")
    assert read_predictions(decoded) == outcome.adapted
    assert left == [
        ".lock",
        "bundle/manifest.json",
        "bundle/tensors.safetensors",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        str(decoded.relative_to(folder.path)),
        "events.jsonl",
        "record.json",
    ]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> Tensor:
        folder = RunFolder(tmp_path / name)
        train(tiny_runs.plan(seed=seed, method__prefix_dropout=0.3), folder)
        return torch.cat([tensor.flatten() for tensor in read_bundle(folder.bundle).tensors.values()])

    first = weights("first", seed=1)
    torch.rand(3)  # whatever the caller drew meanwhile

    assert torch.equal(weights("again", seed=1), first)
    assert not torch.equal(weights("other", seed=2), first)


def test_decoding_with_the_bare_backbone_is_optional(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    outcome = train(tiny_runs.plan(evaluation__compare_bare=False), folder)

    assert outcome.bare == []
    assert len(outcome.adapted) == 4
    assert {"val/loss_before"} == {name for name in outcome.record.metrics if name.endswith("_before")}


def test_the_method_is_detached_whatever_happens(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    plan = tiny_runs.plan()

    train(plan, folder)

    assert not plan.method.is_attached


class TestALossThatIsNotFinite:
    @pytest.fixture
    def failed(self, tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> NonFiniteLossError:
        """A run whose fifth batch gives NaN; validated after every second."""
        usual = AdaptationModule.training_step

        def step(self: AdaptationModule, batch: ModelInputs, batch_idx: int) -> Tensor:
            loss = usual(self, batch, batch_idx)
            if batch_idx == 4:
                self._window.add(torch.tensor(float("nan")), 0)
            return loss

        monkeypatch.setattr(AdaptationModule, "training_step", step)
        with pytest.raises(NonFiniteLossError) as error:
            train(tiny_runs.plan(trainer__max_steps=8, trainer__val_check_interval=2), folder)
        return error.value

    def test_stops_the_run_and_names_the_step(self, failed: NonFiniteLossError) -> None:
        assert "step 5 gave nan" in str(failed)
        assert "Lower `optimizer.lr`" in str(failed)

    def test_keeps_the_last_good_checkpoint(self, failed: NonFiniteLossError, folder: RunFolder) -> None:
        assert step_of(folder.last) == 4
        state = torch.load(folder.last, weights_only=True)["state_dict"]
        assert all(torch.isfinite(tensor).all() for tensor in state.values())

    def test_is_in_record_and_log(self, failed: NonFiniteLossError, folder: RunFolder) -> None:
        assert read_record(folder.record).status == "failed"
        (error,) = events_of(folder, "error")
        assert error["error"] == f"NonFiniteLossError: {failed}"

    def test_leaves_no_bundle(self, failed: NonFiniteLossError, folder: RunFolder) -> None:
        assert not folder.bundle.exists()


def test_a_validation_that_is_not_finite_stops_the_run_and_saves_nothing(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = AdaptationModule.on_validation_epoch_end

    def end(self: AdaptationModule) -> None:
        if self.global_step == 4:
            self._validation.add(torch.tensor(float("nan")), 0)
        usual(self)

    monkeypatch.setattr(AdaptationModule, "on_validation_epoch_end", end)

    with pytest.raises(NonFiniteLossError, match="the validation after step 4 gave nan"):
        train(
            tiny_runs.plan(trainer__max_steps=8, trainer__val_check_interval=2, optimizer__early_stopping_patience=1),
            folder,
        )

    assert step_of(folder.last) == 2
    assert read_record(folder.record).status == "failed"


def test_an_error_before_training_is_recorded_too(
    tiny_runs: TinyRuns, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ptl_prefix.training.train.load_run_inputs", lambda *_, **__: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        train(tiny_runs.plan(), folder)

    assert read_record(folder.record).status == "failed"
    assert events_of(folder, "error")[0]["error"].startswith("ZeroDivisionError")


def test_training_prints_only_its_progress(
    tiny_runs: TinyRuns, folder: RunFolder, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    outcome: Outcome = train(tiny_runs.plan(), folder)

    assert outcome.record.status == "finished"
    said = capfd.readouterr()
    assert said.out == ""
    assert [line.split()[:2] for line in said.err.splitlines()] == [
        ["evaluating", "the"],
        ["step", "3/6"],
        ["step", "6/6"],
        ["decoding", "with"],
    ]
    assert caplog.records == []


def test_the_progress_bar_can_be_left_out(
    tiny_runs: TinyRuns, folder: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    train(tiny_runs.plan(trainer__enable_progress_bar=False), folder)

    assert capfd.readouterr().err == ""


def test_where_there_is_no_test_split_validation_is_decoded_and_named_so(
    tiny_runs: TinyRuns, folder: RunFolder, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"source": f"say {n}", "target": f"it is {n}"}) + "\n" for n in range(8)))
    task = TextPairs(train_file=str(file), validation_file=str(file))

    record = train(replace(tiny_runs.plan(), task=task), folder).record

    assert record.metrics.keys() == {"val/loss", "val/loss_before", "val/exact_match", "val/exact_match_before"}


def test_a_start_is_measured_once_and_kept_when_a_run_is_resumed(tiny_runs: TinyRuns, folder: RunFolder) -> None:
    settings: dict[str, Any] = {
        "evaluation__measure_start": True,
        "evaluation__compare_bare": False,
        "method__init": "demonstrations",
        "method__train_keys": False,
    }
    first = train(tiny_runs.plan(**settings), folder)
    keys = read_bundle(folder.bundle).tensors["decoder_self.keys"]

    resumed = train(tiny_runs.plan(**settings, trainer__max_steps=8), folder, resume=True)

    started = [event for event in read_events(folder.events) if event["kind"] == "start"]
    assert [event["val/loss_start"] for event in started] == [first.record.metrics["val/loss_start"]]
    assert resumed.record.metrics["val/loss_start"] == first.record.metrics["val/loss_start"]
    assert first.record.metrics["val/loss_start"] != first.record.metrics["val/loss_before"]
    assert torch.equal(read_bundle(folder.bundle).tensors["decoder_self.keys"], keys)
    (note,) = [event["note"] for event in read_events(folder.events) if "starts from" in event.get("note", "")]
    assert note.startswith("starts from 3 tokens of the first training pairs (sha256 ")
