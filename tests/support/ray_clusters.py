"""Ray clusters of this machine: nodes that are processes, on loopback, small, and gone at the end."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

_STORE_BYTES = 80 * 2**20
"""Memory of a node's object store, of which nothing here uses more than a little; Ray refuses less."""

_ON_LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise Ray asks the network for this machine's address
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # a busy machine must not lose workers
}

# Ray reads them when it is imported, in this process and in those that a test starts.
os.environ.update(_ON_LOOPBACK)


@contextmanager
def ray_cluster(num_cpus: int) -> Iterator["Cluster"]:
    """A cluster with one node, to which others can be added.

    Args:
        num_cpus: CPUs of the node.
    """
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # names of sockets are short, and pytest's folders are not
    os.environ["RAY_TMPDIR"] = folder
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), path])  # nodes import this file
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        cluster.add_node(**node_settings(num_cpus), include_dashboard=False)  # may fail half-way
        yield cluster
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        del os.environ["RAY_TMPDIR"]
        os.environ["PYTHONPATH"] = path


def add_node(cluster: "Cluster", num_cpus: int, **environment: str) -> None:
    """Add a small node to a cluster, whose workers have some environment variables of their own."""
    cluster.add_node(**node_settings(num_cpus), env_vars=environment)


def node_settings(num_cpus: int) -> dict[str, Any]:
    """Arguments of a small node."""
    return {"num_cpus": num_cpus, "object_store_memory": _STORE_BYTES, "node_ip_address": "127.0.0.1"}


class ActorForTests:
    """Stands for the remote worker of a study, without its imports.

    Args:
        end: `asked`: it works until it is stopped; `error`: it ends with an error; `killed`: its process dies;
            `unfit`: it cannot start, as on a node without the package.
    """

    def __init__(self, end: str) -> None:
        if end == "unfit":
            raise ImportError("no such package")
        self._end, self._lines = end, ["started"]
        self._stopped = threading.Event()

    def run(self) -> str | None:
        if self._end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._end == "error":
            return "There is no such folder."
        assert self._stopped.wait(120)
        return None

    def stop(self, now: bool) -> None:
        self._lines.append(f"stopped, now={now}")
        self._stopped.set()

    def next_lines(self) -> Sequence[str]:
        if not self._lines:
            self._stopped.wait(0.2)
        lines, self._lines = self._lines, []
        return lines
