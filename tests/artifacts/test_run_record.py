"""The record's round trip, and what is refused."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.run_record import (
    SCHEMA_VERSION,
    Cost,
    MetricInfo,
    Parameters,
    RunRecord,
    Status,
    read_record,
    write_record,
)
from ptl_prefix.errors import RunError


@pytest.fixture(scope="session")
def record(decoding: Decoding) -> RunRecord:
    return RunRecord(
        run_id="20240506-070809-abcd",
        status="finished",
        task="table_to_text",
        task_version="1",
        backbone="tiny_gpt2",
        method="prefix_tuning",
        seed=0,
        config={"method": {"prefix_length": 5, "layers": None, "betas": [0.9, 0.999]}},
        study=None,
        trial=None,
        budget={"steps": 400},
        parameters=Parameters(trained=1_180_000, stored=20_480, backbone=5_400_000),
        cost=Cost(train_s=61.5, steps=400, tokens=200_000, tokens_per_s=3252.0, peak_memory_bytes=None),
        decoding=decoding,
        metrics={"val/loss_before": 3.995, "val/loss": 2.383},
        metric_info={"val/loss": MetricInfo(scale="nats/token", direction="minimize", version="1", library="torch")},
        environment={"cores": 2, "git": None},
    )


def test_a_record_has_the_keys_that_its_readers_were_promised(record: RunRecord, tmp_path: Path) -> None:
    write_record(tmp_path / "record.json", record)

    values = json.loads((tmp_path / "record.json").read_text())
    assert " ".join(values) == (
        "schema_version run_id status task task_version backbone method seed config study trial budget parameters cost "
        "decoding metrics metric_info environment error fingerprints accepted_changes selection "
        "ranking learning_rate"
    )
    assert " ".join(values["parameters"]) == "trained stored backbone"
    assert " ".join(values["cost"]) == "train_s steps tokens tokens_per_s peak_memory_bytes skipped_steps"
    assert " ".join(values["metric_info"]["val/loss"]) == "scale direction version library"


finite = st.floats(allow_nan=False, allow_infinity=False)
label = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=30)
@given(
    status=st.sampled_from(get_args(Status)),
    seed=st.integers(),
    trial=st.none() | st.integers(0),
    budget=st.none() | st.dictionaries(label, finite, max_size=2),
    metrics=st.dictionaries(label, finite, max_size=4),
    memory=st.none() | st.integers(0, 2**63 - 1),
)
def test_a_record_is_read_as_it_was_written(
    record: RunRecord, tmp_path_factory: pytest.TempPathFactory, memory: int | None, **changes: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "record.json"
    cost = dataclasses.replace(record.cost, peak_memory_bytes=memory)
    written = dataclasses.replace(record, cost=cost, **changes)

    write_record(path, written)

    assert read_record(path) == written


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"schema_version": SCHEMA_VERSION + 1}, "has the schema_version 2, and this ptl-prefix reads 1"),
        ({"schema_version": 0}, "has the schema_version 0"),
        (
            {"status": "vanished"},
            "has 'vanished' as `status`, which should be 'finished', 'stopped', 'failed', 'pruned' or 'died'",
        ),
        ({"mood": "good"}, "has the unknown key `mood`"),
        ({"seed": "0"}, "has '0' as `seed`"),
        ({"metrics": {"val/loss": None}}, "has None as `metrics.val/loss`"),
        ({"parameters": {"trained": -1, "stored": 1, "backbone": 1}}, "has -1 as `parameters.trained`"),
        ({"decoding": {}}, "has no `decoding.max_new_tokens`"),
    ],
)
def test_a_foreign_record_is_refused_by_name(
    record: RunRecord, tmp_path: Path, changes: dict[str, Any], fact: str
) -> None:
    path = tmp_path / "record.json"
    write_record(path, record)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    with pytest.raises(RunError) as refusal:
        read_record(path)

    assert f"{path} {fact}" in str(refusal.value)


def test_a_truncated_record_is_refused(record: RunRecord, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, record)
    whole = path.read_bytes()

    for length in range(0, len(whole) - 1, 64):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match="is not JSON"):
            read_record(path)


def test_a_missing_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"record\.json is missing; leave this run out, or repeat it"):
        read_record(tmp_path / "record.json")


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"metrics": {"val/loss": float("nan")}}, "`metrics.val/loss` is nan"),
        ({"config": {"path": Path("x")}}, "`config.path` is a PosixPath"),
        ({"status": "vanished"}, "has 'vanished' as `status`"),
        ({"config": {"layers": {1: 2}}}, "`config.layers` has the key 1"),
    ],
)
def test_a_record_that_could_not_be_read_back_is_never_written(
    record: RunRecord, tmp_path: Path, changes: dict[str, Any], fact: str
) -> None:
    path = tmp_path / "record.json"
    write_record(path, record)

    with pytest.raises(ValueError) as refusal:
        write_record(path, dataclasses.replace(record, **changes))

    assert fact in str(refusal.value)
    assert read_record(path) == record


def test_reading_records_and_events_needs_no_torch() -> None:
    rooms = "atomic, decoding, event_log, fingerprint, json_document, manifest, prompt_format, run_folder, run_record"
    script = f"import sys; from ptl_prefix.artifacts import {rooms}; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
