"""Trainings on a self-study: what is learned, what is recorded, and that a killed one ends in the same numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.made_up_studies import write_study
from support.same_runs import assert_same_run
from support.tiny_runs import TinyRuns

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.manifest import read_manifest
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.artifacts.self_study import SelfStudy
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.evaluation.loss import mean_loss
from ptl_prefix.methods.restore import restore
from ptl_prefix.settings import defaults_of
from ptl_prefix.training.distillation_rate import distillation_lr, tokens_per_step
from ptl_prefix.training.dry_run import estimate
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.run_inputs import load_run_inputs
from ptl_prefix.training.train import train

PREFIX = {"prefix_length": 5, "reparam": "none", "init": "text", "frozen_sink": True}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "prefix_tuning": ("prefix_tuning.PrefixTuning", PREFIX),
    "prompt_tuning": ("prompt_tuning.PromptTuning", {"prompt_length": 5, "init": "text"}),
    "lora": ("lora.LoRA", {"dropout": 0.0}),
}


@pytest.fixture(scope="module")
def study(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> SelfStudy:
    """A self-study of the tiny backbone."""
    return write_study(tmp_path_factory.mktemp("study") / "study", tiny_runs.backbone())


def settings(study: SelfStudy, method: str = "prefix_tuning", **changes: Any) -> dict[str, Any]:
    target, own = METHODS[method]
    task = {k.removeprefix("task__"): changes.pop(k) for k in [*changes] if k.startswith("task__")}
    return {
        "task": {
            "_target_": "ptl_prefix.data.tasks.distillation.Distillation",
            **defaults_of("task/distillation"),
            "self_study": str(study.folder),
            "metrics": ["chrf"],
            **task,
        },
        "method": {"_target_": f"ptl_prefix.methods.{target}", **defaults_of(f"method/{method}"), **own},
        "optimizer__lr": None,
        **changes,
    }


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name == "prefix_tuning" else pytest.mark.slow) for name in METHODS]
)
def test_every_kind_of_method_learns_from_the_teacher(
    tiny_runs: TinyRuns, study: SelfStudy, tmp_path: Path, method: str
) -> None:
    folder = RunFolder(tmp_path / "run")
    plan = tiny_runs.plan(
        **settings(study, method, evaluation__measure_start=True), trainer__max_steps=12, data__batch_size=8
    )

    record = train(plan, folder).record

    assert record.metrics["val/loss"] < record.metrics["val/loss_start"]
    assert record.metric_info["val/loss"].scale == "nats per target token, to the teacher"
    assert (record.learning_rate is not None) == (method == "prefix_tuning")
    manifest = read_manifest(folder.bundle)
    assert manifest.document_sha256 == study.facts.document_sha256
    assert manifest.prompt == study.facts.prompt
    # The bundle has the loss of the record, on conversations that it was not trained on.
    backbone = tiny_runs.backbone()
    restored = restore(backbone, read_bundle(folder.bundle))
    validation = load_run_inputs(plan).validation
    assert mean_loss(backbone, restored.method, validation) == pytest.approx(record.metrics["val/loss"], rel=1e-5)


def test_the_learning_rate_is_told_before_training_and_in_the_record(
    tiny_runs: TinyRuns, study: SelfStudy, tmp_path: Path
) -> None:
    plan = tiny_runs.plan(**settings(study), data__batch_size=8, trainer__accumulate_grad_batches=2)
    notes = [note for note in estimate(plan).plan_notes if "learning rate" in note]

    folder = RunFolder(tmp_path / "run")
    record = train(tiny_runs.plan(**plan_settings(plan)), folder).record

    wanted = distillation_lr(tokens_per_step(plan, load_run_inputs(plan).training_rows))
    assert record.learning_rate == pytest.approx(wanted)
    assert notes[0].startswith(f"The learning rate is {wanted:.2g}, by the ")
    assert notes[0] in {event.get("note") for event in read_events(folder.events)}
    logged = [event["lr"] for event in read_events(folder.events) if event["kind"] == "train"]
    assert max(logged) == pytest.approx(wanted)


def plan_settings(plan: Plan) -> dict[str, Any]:
    """The changes that make the same plan again: a method can be attached to one backbone only."""
    return {key: plan.config[key] for key in ("task", "method", "data", "optimizer", "trainer")}


@pytest.mark.parametrize(
    ("tokens", "lr"), [(100, 2e-3), (1024, 2e-3), (8192, 6.325e-3), (65536, 2e-2), (1_000_000, 2e-2)]
)
def test_the_learning_rate_is_on_a_line_in_logarithms(tokens: int, lr: float) -> None:
    assert distillation_lr(tokens) == pytest.approx(lr, rel=1e-3)


def test_what_a_teacher_cannot_teach_is_refused_before_weights_load(
    study: SelfStudy, tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory
) -> None:
    smoothed = tiny_runs.plan(**settings(study), optimizer__label_smoothing=0.1).problems()
    assert [problem.split(",")[0] for problem in smoothed] == [
        "`optimizer.label_smoothing` must be 0 where a teacher is matched"
    ]
    assert not tiny_runs.plan(**settings(study, task__loss="next_token"), optimizer__label_smoothing=0.1).problems()
    of_pairs = TinyRuns(tmp_path_factory.mktemp("bart"), "bart")
    refused = of_pairs.plan(**settings(study)).problems()
    assert any("must be learned by a decoder-only backbone" in problem for problem in refused)


class Killed(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


def killed_after(monkeypatch: pytest.MonkeyPatch, plan: Plan, folder: RunFolder, step: int, *, resume: bool) -> None:
    """Train until after a step, in the middle of what follows it."""
    original = AdaptationModule.on_before_optimizer_step

    def killing(module: AdaptationModule, optimizer: Any) -> None:
        if module.global_step == step:
            raise Killed
        original(module, optimizer)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(AdaptationModule, "on_before_optimizer_step", killing)
        train(plan, folder, resume=resume)


@pytest.fixture(scope="module")
def other_prefix(tiny_runs: TinyRuns, study: SelfStudy, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bundle of another prefix."""
    folder = RunFolder(tmp_path_factory.mktemp("other") / "run")
    train(tiny_runs.plan(**settings(study), trainer__max_steps=1), folder)
    return str(folder.bundle)


def test_a_killed_run_among_other_prefixes_ends_in_the_same_numbers(
    tiny_runs: TinyRuns, study: SelfStudy, other_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan() -> Plan:
        changes = {**settings(study), "trainer__max_steps": 8, "trainer__accumulate_grad_batches": 2}
        changes["method"] |= {"distractors": [other_prefix], "p_isolated": 0.5, "init": "sampled_chunks"}
        return tiny_runs.plan(**changes, trainer__val_check_interval=6)

    whole, resumed = (RunFolder(tmp_path / name) for name in ("whole", "resumed"))
    train(plan(), whole)

    killed_after(monkeypatch, plan(), resumed, 1, resume=False)
    killed_after(monkeypatch, plan(), resumed, 4, resume=True)
    train(plan(), resumed, resume=True)

    assert_same_run(resumed, whole)


@pytest.mark.slow
def test_a_prefix_of_few_positions_beats_as_many_tokens_of_the_document(tmp_path: Path) -> None:
    """On the embedded model: to the teacher's answers that were held out, against the document's first tokens."""
    length = 16
    backbone = load_backbone("tiny_gpt2", dtype="float32", device="cpu")
    study = write_study(tmp_path / "study", backbone, number=16, num_kept=20)
    runs = TinyRuns(tmp_path / "runs")
    changes = settings(study, evaluation__measure_start=True, evaluation__num_examples=2)
    changes["method"] |= {"prefix_length": length, "frozen_sink": False}
    plan = runs.plan(
        **{**changes, "optimizer__lr": 1e-2},  # for few tokens the derived rate needs more steps than a test has
        backbone__path="tiny_gpt2",
        backbone__name="tiny_gpt2",
        data__batch_size=16,
        trainer__max_steps=80,
        trainer__val_check_interval=80,
        optimizer__warmup_steps=5,
    )

    record = train(plan, RunFolder(tmp_path / "run")).record

    # The start is the truncated context itself: keys and values of the document's first tokens, as many as positions.
    truncated = record.metrics["val/loss_start"]
    assert truncated < record.metrics["val/loss_before"]
    assert record.metrics["val/loss"] < 0.8 * truncated
    assert read_record(RunFolder(tmp_path / "run").record).status == "finished"
    assert torch.isfinite(torch.tensor(record.metrics["val/loss"]))
