"""The W&B sink, with W&B's own client and a local server."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from support.fake_wandb_server import KEY, FakeWandb, wandb_at_fake_server
from support.sink_facts import make_facts

from ptl_prefix.artifacts.event_log import EventLog
from ptl_prefix.tracking import wandb_sink
from ptl_prefix.tracking.wandb_sink import STEP, SYNCED_SUFFIX, WandbSink

SAMPLE = {"source": "a table", "reference": "a text", "hypothesis": "some text"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    with wandb_at_fake_server(monkeypatch) as fake:
        yield fake


def sink_with(**settings: Any) -> WandbSink:
    defaults: dict[str, Any] = {
        "mode": "auto",
        "project": "p",
        "entity": None,
        "group": None,
        "job_type": "train",
        "tags": [],
        "finish_timeout_s": 20.0,
    }
    return WandbSink(**{**defaults, **settings})


def log_some(sink: WandbSink) -> None:
    for step in (1, 2):
        sink.write("train", step=step, **{"train/loss": 3.0 - step, "lr": 0.1})
    sink.write("validation", step=2, **{"val/loss": 0.5})


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.glob("wandb/*run-*/run-*.wandb") if not path.parent.is_symlink()]


def test_curves_config_and_summary_reach_the_server_under_the_runs_own_id(server: FakeWandb, tmp_path: Path) -> None:
    notifications: list[str] = []
    sink = sink_with(group="g", tags=["t"], job_type="j")

    sink.open(make_facts(tmp_path / "some-run", notify=notifications.append))
    sink.write("attached", step=0, parameters_trained=7, parameters_stored=3)
    log_some(sink)
    sink.write("finished", step=2, **{"val/loss": 0.25})
    sink.close(0)

    (run,) = server.runs.values()
    assert run is server.runs["some-run"]
    assert [(row[STEP], row.get("train/loss"), row.get("val/loss")) for row in run.history] == [
        (1, 2.0, None),
        (2, 1.0, None),
        (2, None, 0.5),
    ]
    assert run.config | {"_wandb": 0} == {
        "method": "prefix_tuning",
        "method/name": "prefix_tuning",
        "method/prefix_length": 5,
        "prefix_length": 5,
        "seed": 0,
        "parameters_trained": 7,
        "parameters_stored": 3,
        "_wandb": 0,
    }
    assert (run.latest("groupName"), run.latest("jobType"), run.latest("tags")) == ("g", "j", ["t"])
    assert (run.summary["status"], run.summary["val/loss"]) == ("finished", 0.25)
    assert run.exit_codes == [0]
    (sentence,) = notifications
    assert sentence == f"W&B: {server.url}/someone/p/runs/some-run"
    assert server.unknown in ([], [{}]), "only the reachability check is no operation"


def test_every_curve_is_drawn_over_the_steps_of_training(server: FakeWandb, tmp_path: Path) -> None:
    sink = sink_with()
    sink.open(make_facts(tmp_path))
    log_some(sink)
    sink.close(0)

    of_wandb = json.loads(server.runs["some-run"].latest("config"))["_wandb"]["value"]["m"]
    assert STEP in str(of_wandb)


def test_the_samples_are_a_table_that_grows_and_the_bundle_an_artifact(server: FakeWandb, tmp_path: Path) -> None:
    folder = tmp_path / "some-run"
    (folder / "bundle").mkdir(parents=True)
    (folder / "bundle/manifest.json").write_text("{}")
    sink = sink_with()

    sink.open(make_facts(folder))
    sink.write("samples", step=1, samples=[SAMPLE])
    sink.write("samples", step=2, samples=[SAMPLE])
    sink.write("finished", step=2, **{"val/loss": 0.25})
    sink.close(0)

    tables = [json.loads(content) for name, content in server.runs["some-run"].files.items() if "/samples_" in name]
    row = ["a table", "a text", "some text"]
    assert sorted(table["data"] for table in tables) == [[[1, *row]], [[1, *row], [2, *row]]]
    (bundle,) = [one["input"] for one in server.artifacts if one["input"]["artifactTypeName"] == "bundle"]
    assert {alias["alias"] for alias in bundle["aliases"]} == {"best", "latest"}
    assert json.loads(bundle["metadata"]) == {"val/loss": 0.25}
    assert any(name.endswith("manifest.json") for name in server.runs["artifacts"].files)


def test_uncommitted_changes_are_uploaded_as_a_patch(
    server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_sink, "uncommitted_changes", lambda: "+ a line\n")
    sink = sink_with()

    sink.open(make_facts(tmp_path))
    sink.write("begun", step=0, environment={"package_version": "1", "git": {"commit": "abc", "dirty": True}})
    sink.close(0)

    run = server.runs["some-run"]
    assert (run.config["git_commit"], run.config["git_dirty"]) == ("abc", True)
    assert run.files["diff.patch"] == b"+ a line\n"


@pytest.mark.parametrize("exit_code", [1, 143])
def test_the_exit_code_is_that_of_the_process(server: FakeWandb, tmp_path: Path, exit_code: int) -> None:
    sink = sink_with()
    sink.open(make_facts(tmp_path))
    sink.close(exit_code)

    assert server.runs["some-run"].exit_codes == [exit_code]


def test_runs_in_one_process_are_separate(server: FakeWandb, tmp_path: Path) -> None:
    first, second = sink_with(), sink_with()
    first.open(make_facts(tmp_path / "a", run_id="a"))
    second.open(make_facts(tmp_path / "b", run_id="b"))

    second.write("train", step=1, loss=2.0)
    first.write("train", step=5, loss=5.0)
    second.close(0)
    first.close(1)

    assert [row[STEP] for row in server.runs["a"].history] == [5]
    assert [row[STEP] for row in server.runs["b"].history] == [1]
    assert (server.runs["a"].exit_codes, server.runs["b"].exit_codes) == ([1], [0])


def test_jobs_of_a_sweep_with_the_same_run_id_are_separate_runs(server: FakeWandb, tmp_path: Path) -> None:
    for job in ("0", "1"):
        sink = sink_with(group="sweep")
        sink.open(make_facts(tmp_path / job))
        sink.close(0)

    assert set(server.runs) == {"some-run-0", "some-run-1"}


def test_offline_mode_makes_no_network_calls(server: FakeWandb, tmp_path: Path) -> None:
    notifications: list[str] = []
    sink = sink_with(mode="offline")

    sink.open(make_facts(tmp_path, notify=notifications.append))
    log_some(sink)
    sink.write("samples", step=2, samples=[SAMPLE])
    sink.close(0)
    wandb.teardown()  # the library's own process writes the file, and is not waited for before

    assert server.requests == 0
    (file,) = files_of(tmp_path)
    assert b"train/loss" in file.read_bytes()
    assert not file.with_name(file.name + SYNCED_SUFFIX).exists()
    (sentence,) = notifications
    assert "offline, as configured" in sentence and f"ptl-prefix wandb sync {tmp_path}" in sentence


def test_without_an_api_key_the_run_is_offline(
    server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    notifications: list[str] = []

    sink = sink_with()
    sink.open(make_facts(tmp_path, notify=notifications.append))
    sink.close(0)

    assert server.requests == 0
    assert "offline, because there is no API key" in notifications[0]


def test_a_key_in_a_netrc_file_is_used(server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {server.url.removeprefix('http://')}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("WANDB_API_KEY")

    sink = sink_with()
    sink.open(make_facts(tmp_path))
    sink.close(0)

    assert server.runs["some-run"].exit_codes == [0]


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_with_an_error_status_is_not_used(server: FakeWandb, tmp_path: Path, status: int) -> None:
    server.status = status
    notifications: list[str] = []

    sink = sink_with()
    sink.open(make_facts(tmp_path, notify=notifications.append))
    log_some(sink)
    sink.close(0)

    assert server.requests == 1
    assert f"offline, because {server.url} does not respond" in notifications[0]
    assert files_of(tmp_path)


def test_a_server_that_fails_during_the_run_delays_it_up_to_the_timeout(server: FakeWandb, tmp_path: Path) -> None:
    notifications: list[str] = []
    sink = sink_with(finish_timeout_s=0.5)
    sink.open(make_facts(tmp_path, notify=notifications.append))

    server.status = 500
    log_some(sink)
    sink.close(0)

    assert (
        "did not finish within 0.5 s" in notifications[-1] and f"ptl-prefix wandb sync {tmp_path}" in notifications[-1]
    )
    (file,) = files_of(tmp_path)
    assert not file.with_name(file.name + SYNCED_SUFFIX).exists()


def test_a_complete_upload_is_marked(server: FakeWandb, tmp_path: Path) -> None:
    sink = sink_with()
    sink.open(make_facts(tmp_path))
    sink.close(0)

    (file,) = files_of(tmp_path)
    assert file.with_name(file.name + SYNCED_SUFFIX).exists()


@pytest.mark.slow
def test_the_stop_button_stops_the_run(server: FakeWandb, tmp_path: Path) -> None:
    stopped = threading.Event()
    notifications: list[str] = []
    sink = sink_with()
    sink.open(make_facts(tmp_path, request_stop=stopped.set, notify=notifications.append))
    assert not stopped.wait(0.5)

    server.stops_after_rows = 1
    sink.write("train", step=1, loss=1.0)

    assert stopped.wait(30)
    assert any("Stop button" in sentence for sentence in notifications)
    sink.close(143)


def test_a_resumed_run_keeps_its_id_and_its_samples(server: FakeWandb, tmp_path: Path) -> None:
    first = sink_with()
    first.open(make_facts(tmp_path))
    log_some(first)
    first.close(143)
    with EventLog(tmp_path / "events.jsonl") as log:
        log.write("samples", step=2, samples=[SAMPLE])

    second = sink_with()
    second.open(make_facts(tmp_path, resumed_step=2))
    second.write("train", step=3, **{"train/loss": 0.25})
    second.write("samples", step=4, samples=[SAMPLE])
    second.close(0)

    (run,) = (run for run_id, run in server.runs.items() if run_id != "artifacts")
    assert [row[STEP] for row in run.history] == [1, 2, 2, 3, 4]
    assert run.exit_codes == [143, 0]
    (table,) = [json.loads(content) for name, content in run.files.items() if "/samples_" in name]
    assert [row[0] for row in table["data"]] == [2, 4]


@pytest.mark.slow
def test_an_offline_process_makes_no_network_calls_when_it_exits(
    server: FakeWandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_ERROR_REPORTING", raising=False)
    code = (
        "import sys; from pathlib import Path; from support.sink_facts import make_facts\n"
        "from ptl_prefix.tracking.wandb_sink import WandbSink\n"
        "sink = WandbSink(mode='offline', project='p', entity=None, group=None, job_type='j', tags=[],"
        " finish_timeout_s=5.0)\n"
        "sink.open(make_facts(Path(sys.argv[1]))); sink.write('train', step=1, loss=1.0); sink.close(0)\n"
    )
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=180)

    assert server.requests == 0
    assert files_of(tmp_path)
