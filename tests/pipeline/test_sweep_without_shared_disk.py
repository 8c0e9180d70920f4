"""A study on a Ray cluster whose machines share nothing but a database and an object store, killed and resumed.

Each node, and each machine from which the study is started, has a working folder and a cache of its own.
"""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from support.command_lines import CommandLine, run
from support.mirrored_folders import contents
from support.object_store import BUCKET, FaultyStore, wait_until
from support.ray_clusters import add_node, ray_cluster

from benchmarks.postgres_server import postgres_bin, postgres_server
from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.remote.address import RemoteAddress
from ptl_prefix.artifacts.remote.fetch import fetch_folder, is_any
from ptl_prefix.artifacts.remote.run_manifest import RunManifest, parse_manifest
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.sweep.study_folder import open_study
from ptl_prefix.sweeping.trial import Trial

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'ptl-prefix[ray]'"),
    pytest.mark.skipif(postgres_bin() is None, reason="needs PostgreSQL's initdb and pg_ctl"),
    pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="needs psycopg: pip install .[postgres]"),
]

PATIENCE_S = 900
LONG = 200
"""Steps of the two trials in whose middle the study is killed; the other two are short."""
STUDY = "outputs/sweeps/apart"
URL = f"s3://{BUCKET}/outputs"


@dataclass(frozen=True)
class Machine:
    """A machine: its folder and its cache, which no other one uses."""

    root: Path

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True)

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def environment(self) -> dict[str, str]:
        return {"XDG_CACHE_HOME": str(self.root / "cache"), "PTL_PREFIX_WORKING_DIR": str(self.work)}

    @property
    def runs(self) -> dict[str, RunFolder]:
        """The trials whose run folder is here, by their number."""
        configs = (self.work / STUDY).glob("*/config.yaml")
        return {path.parent.name: RunFolder(path.parent) for path in configs}

    @property
    def trained(self) -> set[str]:
        """The trials of which a process has run here: it locks its folder, and no lock is mirrored."""
        return {number for number, folder in self.runs.items() if (folder.path / ".lock").exists()}


@pytest.fixture
def machines(tmp_path: Path) -> dict[str, Machine]:
    return {name: Machine(tmp_path / name) for name in ("first", "second", "alone", "a", "b", "c")}


@pytest.fixture
def cluster(store: FaultyStore, machines: dict[str, Machine]) -> Iterator["Cluster"]:
    """Two nodes of one CPU each, beside the one to which drivers connect, which runs no worker."""
    with ray_cluster(num_cpus=0) as cluster:
        for name in ("a", "b"):
            add_node(cluster, 1, **machines[name].environment)
        yield cluster


@pytest.fixture
def postgres() -> Iterator[str]:
    programs = postgres_bin()
    assert programs is not None
    with postgres_server(programs) as url:
        yield url


def grid(command_line: CommandLine) -> list[str]:
    """Two short trials and two long ones; each machine encodes the data for itself."""
    own = ("trainer.max_steps", "trainer.val_check", "data.cache_dir")
    settings = [word for word in command_line.small if not word.startswith(own)]
    return [
        *("train", "-m", *settings, "evaluation.num_examples=2", "evaluation.compare_bare=false", "tracking=none"),
        *("trainer.val_check_interval=10", f"trainer.max_steps=10,{LONG}", "seed=0,1"),
        *("hydra.sweeper.study_name=apart", "hydra.sweeper.n_jobs=2", "hydra.sweeper.threads=1"),
    ]


def start(machine: Machine, cluster: "Cluster", *words: str) -> subprocess.Popen[str]:
    """Start `ptl-prefix` on a machine. Without `-W error`: Ray has files that Python warns of when it compiles them."""
    environment = {**os.environ, **machine.environment, "RAY_ADDRESS": cluster.address}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-m", "ptl_prefix", *words]
    return subprocess.Popen(command, cwd=machine.work, env=environment, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def mirrored(store: FaultyStore) -> dict[str, RunManifest]:
    """The manifests of the trials in the store, by their number."""
    keys = [
        key for key in store.keys("outputs/sweeps/") if key.endswith("/manifest.json") and "/definition/" not in key
    ]
    return {key.split("/")[-2]: parse_manifest(store.content(key), key) for key in keys}


def trials_of(machine: Machine) -> list[Trial]:
    scheduler = open_study(machine.work / STUDY).scheduler()
    with closing(scheduler._store._storage):  # the server takes a few connections only
        return scheduler.trials("")


def wait_for_the_middle(machine: Machine, store: FaultyStore, sweep: subprocess.Popen[str]) -> Trial:
    """A trial that is one of the long ones and has a mirrored checkpoint, while another one has finished."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        assert sweep.poll() is None, sweep.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.2)
        found = mirrored(store)
        saved = {
            number for number, one in found.items() if one.status == "open" and "checkpoints/last.ckpt" in one.files
        }
        if saved and any(one.status == "finished" for one in found.values()):
            running = [one for one in trials_of(machine) if one.state == "running" and str(one.number) in saved]
            long = [one for one in running if one.params["trainer.max_steps"] == LONG]
            if long:
                return long[0]


def node_of(trial: Trial, cluster: "Cluster") -> object:
    """The node whose worker has a trial: its process is a child of the node's."""
    raylet = psutil.Process(trial.notes["owner"]["pid"]).ppid()
    (node,) = [one for one in cluster.worker_nodes if one.all_processes["raylet"][0].process.pid == raylet]
    return node


def is_removed(folder: Path) -> bool:
    """Remove a folder, of which a process that ends may still write a file."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def test_a_study_that_is_killed_and_resumed_elsewhere_ends_as_on_one_machine(
    command_line: CommandLine,
    store: FaultyStore,
    postgres: str,
    machines: dict[str, Machine],
    cluster: "Cluster",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, alone = machines["first"], machines["second"], machines["alone"]
    shared = [f"outputs_url={URL}", f"hydra.sweeper.storage={postgres}", "hydra.sweeper.executor=ray"]
    sweep = start(first, cluster, *grid(command_line), *shared)
    lost = wait_for_the_middle(first, store, sweep)
    finished_before = {number: one for number, one in mirrored(store).items() if one.status == "finished"}

    node = node_of(lost, cluster)
    sweep.send_signal(signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)
    sweep.communicate(timeout=PATIENCE_S)
    assert not first.runs, "the first machine only chose the trials"
    token = open_study(first.work / STUDY).spec.token
    wait_until(lambda: is_removed(first.root), PATIENCE_S)

    add_node(cluster, 1, **machines["c"].environment)
    sweep = start(second, cluster, "sweep", "resume", f"{URL}/sweeps/apart-{token}")
    _, error = sweep.communicate(timeout=PATIENCE_S)
    assert sweep.returncode == 0, error

    # Exactly the asked trials, each once.
    trials = trials_of(second)
    assert [one.state for one in trials] == ["finished"] * 4
    assert len({one.overrides for one in trials}) == 4
    now = mirrored(store)
    assert {number: one for number, one in now.items() if number in finished_before} == finished_before
    root = RemoteAddress.parse(f"{URL}/sweeps/apart-{token}")
    for trial in trials:
        folder = RunFolder(fetch_folder(root / str(trial.number), is_any))
        steps = [event["step"] for event in read_events(folder.events) if event["kind"] == "validation"]
        assert steps == sorted(set(steps)), "no step was validated twice"
        assert read_record(folder.record).cost.steps == trial.params["trainer.max_steps"]
        resumed = [event["step"] for event in read_events(folder.events) if event["kind"] == "resumed"]
        if trial.number == lost.number:
            assert resumed and 0 < resumed[0] < LONG, "its mirrored checkpoint was used"

    # No machine has what another one trained, unless it resumed it.
    nodes = [machines[name] for name in ("a", "b", "c")]
    for node in nodes:
        for number in set(node.runs) - node.trained:
            assert set(contents(node.runs[number].path)) == {"config.yaml"}, "it was taken there, and killed before"
    assert sum(str(lost.number) in node.trained for node in nodes) == 2
    assert all(len([one for one in nodes if number in one.trained]) == 1 for number in finished_before)
    assert not first.root.exists()
    assert not second.trained
    assert set(second.runs) == {str(one.number) for one in trials}, "the results were fetched for the report"
    comparison = json.loads((second.work / STUDY / "comparison/comparison.json").read_text())
    assert str(first.root) not in json.dumps(comparison)

    # The same numbers as on one machine.
    for name in ("AWS_ENDPOINT_URL", *machines["c"].environment):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(alone.root / "cache"))
    here = run(*grid(command_line), cwd=alone.work)
    assert here.returncode == 0, here.stderr
    expected = trials_of(alone)
    assert {one.overrides: one.value for one in trials} == {one.overrides: one.value for one in expected}
    best, best_alone = (min(found, key=lambda one: one.value or 0.0) for found in (trials, expected))
    assert (best.overrides, best.value) == (best_alone.overrides, best_alone.value)
