"""The record of a run that was killed before it wrote one, rebuilt from its config and its event log.

In: the folder of a killed run. Out: a `RunRecord` with the status `died`: its counts, costs and losses up to the last
complete line of `events.jsonl`. Values that are measured only at the end of a run are missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.event_log import read_events, validation_losses
from ptl_prefix.artifacts.input_fingerprints import accepted_changes, known_fingerprints
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import Cost, MetricInfo, Parameters, RunRecord, Selection
from ptl_prefix.errors import RunError

Event = dict[str, Any]


def rebuild_record(folder: RunFolder) -> RunRecord:
    """Rebuild the record of a killed run.

    Raises:
        RunError: The config or the log cannot be read, or the log ends before the method was attached.
    """
    config, events = read_config(folder), read_events(folder.events)
    begun, attached = _newest(events, "begun"), _newest(events, "attached", "resumed")
    if begun is None or attached is None:
        raise RunError(
            f"A run's log must reach the start of training, but {folder.events} ends before that; resume the run, or "
            "leave it out."
        )
    try:
        return RunRecord(
            run_id=str(config["run_id"]),
            status="died",
            task=config["task"]["name"],
            task_version=begun["task_version"],
            backbone=config["backbone"]["name"],
            method=config["method"]["name"],
            seed=config["seed"],
            config=config,
            study=config.get("study"),
            trial=config.get("trial"),
            budget={"steps": attached["planned_steps"]},
            parameters=Parameters(
                **{name: attached[f"parameters_{name}"] for name in ("trained", "stored", "backbone")}
            ),
            cost=_cost(events),
            decoding=TypeAdapter(Decoding).validate_python(begun["decoding"]),
            metrics=read_losses(events),
            metric_info=TypeAdapter(dict[str, MetricInfo]).validate_python(begun["metric_info"]),
            environment=begun["environment"],
            fingerprints=known_fingerprints(events) or {},
            accepted_changes=accepted_changes(events),
            selection=read_selection(events, config),
            learning_rate=attached.get("learning_rate"),
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise RunError(
            f"A killed run's config and log must hold its record's values, but in {folder.path} one is missing "
            f"({type(error).__name__}: {error}); resume the run, or leave it out."
        ) from error


def read_losses(events: Sequence[Event]) -> dict[str, float]:
    """The validation losses of the bare backbone, of the start, and of the best checkpoint, if they were measured."""
    before = {
        name: [event[name] for event in events if event["kind"] == kind and name in event]
        for name, kind in (("val/loss_before", "bare"), ("val/loss_start", "start"))
    }
    chosen = [event["step"] for event in events if event["kind"] == "selection" and event["is_best"]]
    after = [loss for step, loss in validation_losses(events) if not chosen or step == chosen[-1]]
    return {
        **{name: losses[0] for name, losses in before.items() if losses},
        **({"val/loss": min(after)} if after else {}),
    }


def read_selection(events: Sequence[Event], config: Mapping[str, Any]) -> Selection | None:
    """The choice of the best checkpoint by a metric of generated texts, as far as the log has it."""
    measured = [event for event in events if event["kind"] == "selection"]
    best = [event for event in measured if event["is_best"]]
    attached = _newest(events, "attached", "resumed")
    if not best or attached is None:
        return None
    metric = config["training"]["select_by"]
    return Selection(
        metric=metric,
        value=best[-1].get(metric),
        step=best[-1]["step"],
        num_examples=attached["selection_examples"],
        decode_s=measured[-1]["selection_s"],
    )


def _newest(events: Sequence[Event], *kinds: str) -> Event | None:
    return next((event for event in reversed(events) if event["kind"] in kinds), None)


def _cost(events: Sequence[Event]) -> Cost:
    point = _newest(events, "train", "validation") or {}
    seconds, tokens = point.get("train_s", 0.0), point.get("tokens", 0)
    return Cost(
        train_s=seconds,
        steps=max((event["step"] for event in events), default=0),
        tokens=tokens,
        tokens_per_s=tokens / seconds if seconds else 0.0,
        peak_memory_bytes=None,
        skipped_steps=(_newest(events, "train") or {}).get("skipped_steps", 0),
    )
