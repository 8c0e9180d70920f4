"""Whole runs with W&B's own client and a local server."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command_lines import CommandLine, Invoke, start
from support.fake_wandb_server import FakeRun, FakeWandb, wandb_at_fake_server
from support.made_up_runs import make_run

from ptl_prefix.artifacts.event_log import EventLog, read_events
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.tracking.wandb_sink import STEP

LONG = ("trainer.max_steps=100000", "trainer.val_check_interval=100000", "evaluation.num_examples=2")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    with wandb_at_fake_server(monkeypatch) as fake:
        yield fake


def runs_of(server: FakeWandb) -> dict[str, FakeRun]:
    return {run_id: run for run_id, run in server.runs.items() if run_id != "artifacts"}


def test_a_run_is_on_the_server_as_it_is_on_disk(
    server: FakeWandb, command_line: CommandLine, invoke: Invoke, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")

    result = invoke("train", *command_line.small, f"hydra.run.dir={folder.path}")

    assert result.exit_code == 0, result.output
    record = read_record(folder.record)
    (run,) = runs_of(server).values()
    assert run is server.runs[record.run_id]
    assert run.exit_codes == [0]
    assert [row[STEP] for row in run.history if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert run.summary["test/exact_match"] == record.metrics["test/exact_match"]
    assert run.config["parameters_stored"] == record.parameters.stored
    assert {"train/grad_norm", "lr", "tokens_per_s"} <= run.history[0].keys()


@pytest.mark.slow
@pytest.mark.parametrize("pack", [1, 2])
def test_the_runs_of_a_sweep_are_a_group_and_none_is_merged_with_another(
    server: FakeWandb, command_line: CommandLine, invoke: Invoke, tmp_path: Path, pack: int
) -> None:
    words = ["seed=0,1", "tracking.name=${method.name}-s${seed}", f"hydra.sweeper.pack={pack}"]

    result = invoke("train", "-m", *command_line.small, *words, f"hydra.sweep.dir={tmp_path / 'my-sweep'}")

    assert result.exit_code == 0, result.output
    assert {run.latest("groupName") for run in runs_of(server).values()} == {"my-sweep"}
    runs = [run for run in runs_of(server).values() if run.latest("jobType") == "train"]  # the third is the study's own
    assert sorted(run.config["seed"] for run in runs) == [0, 1]
    assert sorted(run.latest("displayName") for run in runs) == ["prefix_tuning-s0", "prefix_tuning-s1"]
    assert [run.exit_codes for run in runs] == [[0], [0]]
    for run in runs:
        (folder,) = (tmp_path / "my-sweep").glob(f"**/{run.config['trial']}/events.jsonl")
        events = [event for event in read_events(folder) if event["kind"] == "train"]
        logged = [(row[STEP], row["train/loss"]) for row in run.history if "train/loss" in row]
        assert logged == [(event["step"], event["train/loss"]) for event in events] and len(logged) == 6


@pytest.mark.slow
def test_the_stop_button_stops_a_run_that_resumes_under_the_same_id(
    server: FakeWandb, command_line: CommandLine, invoke: Invoke, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    server.stops_after_rows = 3

    stopped = invoke("train", *command_line.small, *LONG, f"hydra.run.dir={folder.path}")

    assert stopped.exit_code == 128 + signal.SIGTERM, stopped.output
    assert "Stop button" in stopped.output
    assert read_record(folder.record).status == "stopped"
    (run,) = runs_of(server).values()
    assert run.exit_codes == [143] and run.summary["status"] == "stopped"
    rows = len(run.history)
    folder.config.write_text(folder.config.read_text().replace("100000", str(run.history[-1][STEP] + 2)))
    server.stops_after_rows = None

    resumed = invoke("train", f"resume={folder.path}")

    assert resumed.exit_code == 0, resumed.output
    assert list(runs_of(server).values()) == [run]
    assert run.exit_codes == [143, 0] and run.summary["status"] == "finished"
    assert run.history[rows][STEP] == run.history[rows - 1][STEP] + 1


@pytest.mark.slow
def test_sigterm_reaches_the_server_as_an_exit_code(
    server: FakeWandb, command_line: CommandLine, tmp_path: Path
) -> None:
    process = start("train", *command_line.small, *LONG, "hydra.run.dir=run", cwd=tmp_path)
    assert process.stderr is not None
    log = tmp_path / "run/events.jsonl"
    while process.poll() is None and (not log.exists() or '"train"' not in log.read_text()):
        time.sleep(0.1)

    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=120)

    assert process.returncode == 143, error
    (run,) = runs_of(server).values()
    assert run.exit_codes == [143]


@pytest.mark.slow
def test_offline_runs_are_listed_and_then_uploaded(
    server: FakeWandb, command_line: CommandLine, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        invoke("train", *command_line.small, f"seed={seed}", "tracking.wandb=offline", f"hydra.run.dir=out/{seed}")
    assert server.requests == 0

    shown = invoke("wandb", "sync", "out")
    assert shown.exit_code == 0, shown.output
    assert "out/0" in shown.output and "out/1" in shown.output and "yes=true" in shown.output
    assert server.requests == 0

    sent = invoke("wandb", "sync", "out", "yes=true")
    assert sent.exit_code == 0, sent.output
    runs = runs_of(server).values()
    assert sorted(run.config["seed"] for run in runs) == [0, 1]
    assert all(run.exit_codes == [0] and run.summary["status"] == "finished" for run in runs)
    assert all([row[STEP] for row in run.history if "train/loss" in row] == [1, 2, 3, 4, 5, 6] for run in runs)

    assert [path.name for path in Path().iterdir()] == ["out"], "nothing was left in the working directory"
    assert "no runs to upload" in invoke("wandb", "sync", "out").output


def kill_behind(step: int, words: list[str], cwd: Path, server: FakeWandb, *, num_sent: int = 0) -> RunFolder:
    """A run that was killed together with W&B's process, after it had logged a step and uploaded some rows."""
    process = start("train", *words, "hydra.run.dir=run", cwd=cwd, start_new_session=True)
    log = cwd / "run/events.jsonl"
    while process.poll() is None:
        sent = sum(len(run.history) for run in runs_of(server).values())
        if sent >= num_sent and log.exists() and f'"step": {step}' in log.read_text():
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    _, error = process.communicate(timeout=180)
    assert process.returncode == -signal.SIGKILL, error
    return RunFolder(cwd / "run")


def rows_in(folder: RunFolder) -> list[tuple[int, float | None, float | None]]:
    """The rows of curves in the complete lines of a log."""
    events = [event for event in read_events(folder.events) if event["kind"] in ("train", "validation")]
    return [(event["step"], event.get("train/loss"), event.get("val/loss")) for event in events]


def rows_at(run: FakeRun) -> list[tuple[int, float | None, float | None]]:
    """The rows of curves that the server has."""
    return [(row[STEP], row.get("train/loss"), row.get("val/loss")) for row in run.history if "samples" not in row]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["offline", "online", "none"])
def test_every_complete_line_of_a_killed_run_is_uploaded_once(
    server: FakeWandb, command_line: CommandLine, invoke: Invoke, tmp_path: Path, mode: str
) -> None:
    long = ["trainer.max_steps=100000", "trainer.val_check_interval=20"]
    words = [*command_line.small, *long, f"tracking.wandb={mode}"]
    folder = kill_behind(47, words, tmp_path, server, num_sent=30 if mode == "online" else 0)
    with folder.events.open("a") as file:
        file.write('{"time_s": 1.0, "kind": "train", "st')
    assert bool(runs_of(server)) == (mode == "online")
    compared = invoke("compare", folder.path, "include=[died]", "out=mine")
    assert compared.exit_code == 0 and "(died)" in compared.output, compared.output

    shown = invoke("wandb", "sync", folder.path)
    assert "events.jsonl" in shown.output and "died" in shown.output
    sent = invoke("wandb", "sync", folder.path, "yes=true")

    assert sent.exit_code == 0, sent.output
    (run,) = runs_of(server).values()
    assert rows_at(run) == rows_in(folder)
    assert run.summary["status"] == "died" and run.exit_codes == [1]
    tables = [json.loads(content) for name, content in run.files.items() if "/samples_" in name]
    assert len(tables) >= (1 if mode == "online" else 2) and run.config["parameters_stored"] > 0
    assert "no runs to upload" in invoke("wandb", "sync", folder.path).output

    # It goes on, offline, and is sent once more.
    at = rows_in(folder)[-1][0]
    folder.config.write_text(
        folder.config.read_text().replace("100000", str(at + 3)).replace(f"wandb: {mode}", "wandb: offline")
    )
    resumed = invoke("train", f"resume={folder.path}")
    assert resumed.exit_code == 0, resumed.output
    assert invoke("wandb", "sync", folder.path, "yes=true").exit_code == 0

    # Which rows, not their values: fewer steps are another schedule.
    arrived, logged = ([(step, loss is None) for step, loss, _ in rows] for rows in (rows_at(run), rows_in(folder)))
    assert sorted(arrived) == sorted(logged)
    assert run.summary["status"] == "finished" and run.exit_codes == [1, 0]


@pytest.mark.slow
def test_a_killed_run_that_resumes_online_uploads_no_step_twice(
    server: FakeWandb, command_line: CommandLine, invoke: Invoke, tmp_path: Path
) -> None:
    long = ["trainer.max_steps=100000", "trainer.val_check_interval=20"]
    folder = kill_behind(55, [*command_line.small, *long], tmp_path, server, num_sent=55)
    (run,) = runs_of(server).values()
    known = run.history[-1][STEP]
    folder.config.write_text(folder.config.read_text().replace("100000", str(known + 3)))

    assert invoke("train", f"resume={folder.path}").exit_code == 0

    steps = [row[STEP] for row in run.history if "train/loss" in row]
    assert steps == list(range(1, known + 4))


@pytest.mark.slow
@pytest.mark.parametrize(("requests", "said"), [(2, "receives no further events"), (6, "ptl-prefix wandb sync")])
def test_a_server_that_fails_during_a_run_fails_nothing_but_itself(
    server: FakeWandb, command_line: CommandLine, invoke: Invoke, tmp_path: Path, requests: int, said: str
) -> None:
    server.breaks_after_requests = requests

    result = invoke("train", *command_line.small, "tracking.finish_timeout_s=1.0", f"hydra.run.dir={tmp_path / 'run'}")

    assert result.exit_code == 0, result.output
    assert read_record(RunFolder(tmp_path / "run").record).status == "finished"
    assert said in result.output
    shown = invoke("wandb", "sync", tmp_path)
    assert "finished" in shown.output


def test_an_unreachable_server_is_reported_in_one_line(
    server: FakeWandb, command_line: CommandLine, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")

    result = invoke("train", *command_line.small, f"hydra.run.dir={tmp_path / 'run'}")

    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("W&B")]
    assert "offline, because http://127.0.0.1:9 does not respond" in line


def test_nothing_is_uploaded_if_the_server_does_not_answer_queries(
    server: FakeWandb, invoke: Invoke, tmp_path: Path
) -> None:
    server.refuses = ("RunHistoryTail",)
    make_run(tmp_path / "a")

    result = invoke("wandb", "sync", tmp_path / "a", "yes=true")

    assert result.exit_code == 1 and "must answer a query" in result.output
    assert server.runs == {} and not (tmp_path / "a/wandb").exists()


def test_an_untracked_run_is_uploaded_from_its_log_if_its_folder_is_given(
    server: FakeWandb, invoke: Invoke, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "a")
    with EventLog(folder.events) as log:
        log.write("finished", step=40, **{"test/bleu": 50.0})
    times = [event["time_s"] for event in read_events(folder.events) if event["kind"] == "validation"]

    result = invoke("wandb", "sync", folder.path, "yes=true")

    assert result.exit_code == 0, result.output
    run = server.runs["a"]
    assert rows_at(run) == rows_in(folder) and len(run.history) == 2
    assert [row["_timestamp"] for row in run.history] == times
    assert (run.exit_codes, run.summary["status"], run.summary["test/bleu"]) == ([0], "finished", 50.0)
    assert (run.config["prefix_length"], run.config["parameters_stored"]) == (10, 100)


def test_a_dashboard_is_written_without_a_server_and_pushed_and_replaced_with_one(
    server: FakeWandb, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(Path("outputs/a"), more={"tracking": {"project": "p", "entity": None}})
    monkeypatch.setenv("WANDB_MODE", "offline")

    offline = invoke("wandb", "dashboard", "outputs")

    assert offline.exit_code == 0, offline.output
    assert "not pushed, because WANDB_MODE is offline" in offline.output and server.requests == 0
    document = json.loads(Path("outputs/wandb-workspace.json").read_text())
    assert (document["project"], document["pushed"]) == ("p", {})
    assert "summary:test/bleu" in json.dumps(document["spec"])

    monkeypatch.delenv("WANDB_MODE")
    online = [invoke("wandb", "dashboard", "outputs") for _ in range(2)]

    assert all(result.exit_code == 0 for result in online), online[0].output
    assert f"workspace: {server.url}/someone/p?nw=" in online[0].output
    assert f"report: {server.url}/someone/p/reports/" in online[0].output
    assert online[0].output == online[1].output, "the same places"
    assert [view.get("id") for view in server.views] == [None, None, "view-1", "view-2"]


def test_a_dashboard_is_written_to_its_file_even_if_the_server_rejects_it(
    server: FakeWandb, invoke: Invoke, tmp_path: Path
) -> None:
    server.refuses = ("UpsertView2",)

    result = invoke("wandb", "dashboard", ".", "out=some.json", "metric=test/x", "project=other")

    assert result.exit_code == 1
    assert "must accept the dashboard" in result.output
    assert json.loads(Path("some.json").read_text())["project"] == "other"


@pytest.mark.parametrize(
    ("words", "law"),
    [
        (["send"], "must be followed by sync or dashboard"),
        (["sync", "nowhere"], "'nowhere' is not a folder"),
        (["sync", ".", "metric=x"], "`metric` must not be set, because `wandb sync`"),
        (["dashboard", ".", "yes=true"], "`yes` must not be set, because `wandb dashboard`"),
    ],
)
def test_invalid_arguments_are_refused(invoke: Invoke, words: list[str], law: str) -> None:
    result = invoke("wandb", *words)

    assert result.exit_code == 2
    assert law in result.output


def test_an_upload_without_an_api_key_is_refused(
    server: FakeWandb, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    part = tmp_path / "run/wandb/offline-run-1-a"
    part.mkdir(parents=True)
    (part / "run-a.wandb").write_bytes(b"x")

    result = invoke("wandb", "sync", tmp_path / "run", "yes=true")

    assert result.exit_code == 1
    assert "WANDB_API_KEY" in result.output and "died" in result.output
