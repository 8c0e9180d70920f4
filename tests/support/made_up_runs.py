"""Creates run folders with made-up records, logs and outputs, without a model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.evaluation_record import EvaluationKey, EvaluationRecord, write_evaluation_record
from ptl_prefix.artifacts.event_log import EventLog
from ptl_prefix.artifacts.fingerprint import fingerprint_text
from ptl_prefix.artifacts.manifest import BackboneIdentity, Manifest, sealed_text
from ptl_prefix.artifacts.predictions import Prediction, write_predictions
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import Cost, MetricInfo, Parameters, RunRecord, write_record

GREEDY = Decoding(
    max_new_tokens=64,
    min_new_tokens=0,
    num_beams=1,
    length_penalty=1.0,
    no_repeat_ngram_size=0,
    do_sample=False,
    temperature=1.0,
    top_p=1.0,
    seed=0,
)
LOSS = MetricInfo(scale="nats per target token", direction="minimize", version="1", library="torch 2.13.0")
BLEU = MetricInfo(scale="0-100", direction="maximize", version="1", library="sacrebleu 2.6.0")
INFOS = {"val/loss": LOSS, "test/bleu": BLEU, "test/loss": LOSS, "val/loss_before": LOSS, "test/bleu_before": BLEU}
BUNDLE_BYTES = 5_000
ENVIRONMENT = {"cpu": "Abacus", "cores": 2, "devices": [], "package_version": "0.1.0", "libraries": {}, "git": None}


@dataclass(frozen=True, kw_only=True)
class MadeUp:
    """The content of a made-up run; every field has a default."""

    bleu: float = 50.0
    loss: float = 1.0
    seed: int = 0
    method: str = "prefix_tuning"
    settings: Mapping[str, Any] = field(default_factory=lambda: {"prefix_length": 10})
    task: str = "towns"
    task_version: str = "1"
    task_settings: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "tiny"
    weights: str = "a" * 64
    status: str = "finished"
    trained: int = 1_000
    stored: int = 100
    steps: int = 40
    decoding: Decoding = GREEDY
    infos: Mapping[str, MetricInfo] = field(default_factory=lambda: INFOS)
    hypotheses: Sequence[str] = ("a town", "a city", "a lake")
    references: Sequence[str] = ("a town", "a city", "a lake")
    num_examples: int | None = None
    environment: Mapping[str, Any] = field(default_factory=lambda: ENVIRONMENT)
    more_metrics: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    study: str | None = None

    def record(self, run_id: str = "run") -> RunRecord:
        """Its `record.json`."""
        return RunRecord(
            run_id=run_id,
            status=self.status,  # type: ignore[arg-type]
            task=self.task,
            task_version=self.task_version,
            backbone=self.backbone,
            method=self.method,
            seed=self.seed,
            config=self.config(run_id),
            study=self.study,
            trial=None,
            budget={"steps": self.steps},
            parameters=Parameters(trained=self.trained, stored=self.stored, backbone=10**6),
            cost=Cost(train_s=10.0, steps=self.steps, tokens=4_000, tokens_per_s=400.0, peak_memory_bytes=2 * 10**8),
            decoding=self.decoding,
            metrics={
                "val/loss_before": 3.0,
                "test/bleu_before": 5.0,
                "val/loss": self.loss,
                "test/bleu": self.bleu,
                **self.more_metrics,
            },
            metric_info={**self.infos},
            environment=dict(self.environment),
        )

    def config(self, run_id: str = "run") -> dict[str, Any]:
        """Its resolved config."""
        return {
            "seed": self.seed,
            "run_id": run_id,
            "task": {"name": self.task, "num_train_examples": None, "subset_seed": 0, **self.task_settings},
            "backbone": {"name": self.backbone},
            "method": {"name": self.method, **self.settings},
            "trainer": {"max_steps": self.steps},
            "evaluation": {"num_examples": self.num_examples},
            **self.more,
        }

    def predictions(self) -> list[Prediction]:
        """Its predictions."""
        pairs = zip(self.hypotheses, self.references, strict=True)
        return [
            Prediction(id=f"test-{n}", source=f"name : {n}", references=(right,), hypothesis=mine)
            for n, (mine, right) in enumerate(pairs)
        ]


def make_run(path: Path, run: MadeUp | None = None, **changes: Any) -> RunFolder:
    """Create a run folder."""
    run = run or MadeUp(**changes)
    folder = RunFolder(path)
    path.mkdir(parents=True)
    folder.config.write_text(yaml.safe_dump(run.config(path.name)))
    with EventLog(folder.events) as log:
        begun = {"task_version": run.task_version, "decoding": asdict(run.decoding), "environment": run.environment}
        log.write("begun", step=0, metric_info={key: asdict(info) for key, info in run.infos.items()}, **begun)
        log.write("bare", step=0, **{"val/loss_before": 3.0})
        counts = {"parameters_trained": run.trained, "parameters_stored": run.stored, "parameters_backbone": 10**6}
        log.write("attached", step=0, planned_steps=run.steps, **counts)
        for step in (run.steps // 2, run.steps):
            cost = {"train_s": 10.0 * step / run.steps, "tokens": 4_000 * step // run.steps}
            log.write("validation", step=step, **{"val/loss": run.loss * run.steps / step}, **cost)
    write_predictions(folder.evaluation / "test-0000000000/predictions.jsonl", run.predictions())
    folder.bundle.mkdir()
    manifest = sealed_text(_manifest(run))
    (folder.bundle / "manifest.json").write_text(manifest)
    (folder.bundle / "tensors.safetensors").write_bytes(b"0" * (BUNDLE_BYTES - len(manifest)))
    write_record(folder.record, run.record(path.name))
    return folder


def evaluate_run(
    folder: RunFolder, run: MadeUp, *, bleu: float, num_in_split: int = 3, decoding: Decoding | None = None
) -> Path:
    """Write what `ptl-prefix evaluate` writes for the full split."""
    key = EvaluationKey(
        method=run.method,
        adaptation=_manifest(run).tensors_sha256,
        backbone=run.backbone,
        backbone_weights=run.weights,
        dtype="float32",
        task=run.task,
        task_version=run.task_version,
        data="d" * 64,
        split="test",
        num_examples=num_in_split,
        decoding=decoding or run.decoding,
        over_labels=False,
    )
    record = EvaluationRecord(
        key=key,
        num_in_split=num_in_split,
        metrics={"test/loss": 1.5, "test/bleu": bleu},
        intervals={},
        metric_info={"test/loss": LOSS, "test/bleu": BLEU},
        skipped={},
        decode_s=1.0,
        environment={},
    )
    place = folder.evaluation / key.folder_name
    write_predictions(place / "predictions.jsonl", run.predictions())
    write_evaluation_record(place / "metrics.json", record)
    return place


def _manifest(run: MadeUp) -> Manifest:
    identity = BackboneIdentity(
        name=run.backbone, path="tiny", family="gpt2", weights_fingerprint=run.weights, tokenizer_fingerprint="b" * 64
    )
    return Manifest(
        method=run.method,
        settings={},
        task=run.task,
        task_version=run.task_version,
        prompt=PromptFormat(before="", between="\n", truncation="right", max_source_tokens=None),
        stop_ids=(0,),
        decoding=run.decoding,
        label_set=None,
        metrics={},
        geometry={},
        position_law="shifted",
        dtype="float32",
        backbone=identity,
        tensors={},
        tensors_sha256=fingerprint_text(run.method, str(run.seed), json.dumps(dict(run.settings))),
        created="2024-05-06T07:08:09Z",
        package_version="0.1.0",
    )
