"""The model card of an export, from the run that it comes from.

In: a bundle, or a trained method, and its run if there is one. Out: `CardFacts`. Intervals and numbers of examples come
from the evaluations that the run folder has of the same weights.
"""

import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.bundle_folder import run_of_bundle
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.evaluation_record import RECORD_FILE, EvaluationRecord, read_evaluation_record
from ptl_prefix.artifacts.hub_address import is_repo
from ptl_prefix.artifacts.manifest import BackboneIdentity, Manifest, read_manifest
from ptl_prefix.artifacts.metric_key import is_bare, parts_of
from ptl_prefix.artifacts.model_card import CardFacts, CardKind, CardMetric
from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import MetricInfo, RunRecord, read_record
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.commands.config.reproduce import overrides_for
from ptl_prefix.data.task import Task
from ptl_prefix.errors import PtlPrefixError
from ptl_prefix.methods.method import Method
from ptl_prefix.training.plan import Plan

_PLACES = ("tracking", "data.cache_dir", "data.max_hidden_state_bytes", "backbone.device", "trainer.accelerator")
"""Settings of a run that say where it ran, not what it computed."""


def facts_of_bundle(manifest: Manifest, run: RunFolder | None, task: Task | None) -> CardFacts:
    """What the card of a bundle states.

    Args:
        manifest: The bundle's manifest.
        run: Run that it was exported from; `None` if that is not known.
        task: Task of the run; `None` if it is not known.
    """
    facts = CardFacts(
        kind="bundle",
        method=manifest.method,
        settings=manifest.settings,
        task=manifest.task,
        task_version=manifest.task_version,
        backbone=manifest.backbone,
        prompt=manifest.prompt,
        num_stored=sum(math.prod(info.shape) for info in manifest.tensors.values()),
    )
    own = {manifest.tensors_sha256, _evaluated(run, manifest.metrics)}
    return _with_run(facts, run, task, _measured(manifest.metrics, run, own, manifest.decoding))


def facts_of_method(
    kind: CardKind, plan: Plan, method: Method, backbone: Backbone, run: RunFolder, metrics: Mapping[str, float]
) -> CardFacts:
    """What the card of an adapter of PEFT or of a merged model states.

    Args:
        kind: Form of the export.
        plan: Plan of the run.
        method: Method, attached to the backbone.
        backbone: The backbone.
        run: The run.
        metrics: Metrics of the exported checkpoint.
    """
    facts = CardFacts(
        kind=kind,
        method=method.kind,
        settings=method.export()[0],
        task=plan.task.name,
        task_version=plan.task.version,
        backbone=backbone.identity,
        prompt=plan.task.prompt,
        num_stored=method.num_stored if kind == "peft" else backbone.num_parameters,
    )
    return _with_run(facts, run, plan.task, _measured(metrics, run, {_evaluated(run, metrics)}, plan.decoding))


def facts_to_push(bundle: Path, manifest: Manifest) -> CardFacts:
    """What the card of a bundle states that has none, such as that of a run."""
    run = run_of_bundle(bundle)
    task = None
    if run is not None:
        try:
            task = build(read_config(run, ("task",))["task"])
        except PtlPrefixError:
            task = None  # only the licence of its data is left out
    return facts_of_bundle(manifest, run, task)


def _with_run(
    facts: CardFacts, run: RunFolder | None, task: Task | None, metrics: Mapping[str, CardMetric]
) -> CardFacts:
    facts = replace(
        facts,
        metrics=metrics,
        data_licence="" if task is None else task.licence,
        backbone_licence=_licence(facts.backbone),
    )
    record = _record_of(run)
    if record is None:
        return facts
    data = record.config.get("task", {}).get("hub")
    return replace(
        facts,
        num_trained=record.parameters.trained,
        num_backbone=record.parameters.backbone,
        command=_command(record),
        dataset=data if isinstance(data, str) and is_repo(data) else None,
    )


def _licence(backbone: BackboneIdentity) -> str:
    """The licence of a backbone that this package has a choice for; empty for another one, whatever its name."""
    if catalog.settings_of("backbone", backbone.name).get("path") != backbone.path:
        return ""
    return catalog.labels_of("backbone", backbone.name).get("Licence", "")


def _measured(
    own: Mapping[str, float], run: RunFolder | None, adaptations: Collection[str | None], decoding: Decoding
) -> dict[str, CardMetric]:
    """The metrics of the training, and those of evaluations of the same weights, with as many examples as possible."""
    record = _record_of(run)
    infos: Mapping[str, MetricInfo] = {} if record is None else record.metric_info
    found = {
        key: CardMetric(value=value, info=infos.get(key) or infos.get(parts_of(key)[1]))
        for key, value in own.items()
        if not is_bare(key)
    }
    if run is None:
        return found
    evaluations = [
        one
        for one in _evaluations(run)
        if one.key.adaptation is not None and one.key.adaptation in adaptations and one.key.decoding == decoding
    ]
    for one in sorted(evaluations, key=lambda one: (one.key.num_examples, bool(one.intervals))):
        for key, value in one.metrics.items():
            found[key] = CardMetric(
                value=value,
                info=one.metric_info.get(key),
                interval=one.intervals.get(key),
                num_examples=one.key.num_examples,
            )
    return found


def _evaluated(run: RunFolder | None, metrics: Mapping[str, float]) -> str | None:
    """Hash of the run's own bundle, if the metrics are its own; an export of it may differ in the last bits.

    The metrics of another checkpoint than the best are its validation loss alone.
    """
    return read_manifest(run.bundle).tensors_sha256 if run is not None and len(metrics) > 1 else None


def _evaluations(run: RunFolder) -> Iterator[EvaluationRecord]:
    for path in sorted(run.evaluation.glob(f"*/{RECORD_FILE}")):
        try:
            yield read_evaluation_record(path)
        except PtlPrefixError:
            continue  # of another version, or damaged: its numbers are left out


def _record_of(run: RunFolder | None) -> RunRecord | None:
    try:
        return None if run is None else read_record(run.record)
    except PtlPrefixError:
        return None  # the run has not ended


def _command(record: RunRecord) -> str | None:
    """The command that trains a run again, with `<path>` for each folder and file of this machine."""
    try:
        overrides = overrides_for(_without_paths(record.config))
    except ValueError:
        return None  # this version cannot compose the config
    return printed_command("train", *(text for text in overrides if not text.startswith(_PLACES)))


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_paths(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(part) for part in value]
    is_path = isinstance(value, str) and os.path.isabs(os.path.expanduser(value))
    return "<path>" if is_path else value
