"""Workers as actors of a Ray cluster.

In: the address of a cluster, and what each worker asks of it. Out: workers on its nodes. Ray chooses the node, starts
the process, hands out the devices and notices when a node is lost; it knows nothing of trials. The only file that
imports Ray.
"""

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.executor import WorkerState

_CALLS_AT_ONCE = 3
"""`run`, which lasts as long as the worker; `next_lines`, which waits for a line; and `stop`."""
_REACHABLE_S = 10.0
_LAST_LINES_S = 5.0
_STORE_BYTES = 100 * 2**20


class RayExecutor:
    """Starts workers on a Ray cluster.

    Args:
        worker_class: Class of the actor, importable on every node. It has `run`, which returns the error that ended it
            in one sentence, or `None`; `next_lines`, which waits for status lines; and `stop(now)`.
        arguments: Keyword arguments of the class.
        address: Address of the cluster, to which this machine belongs: `auto`, HOST:PORT, or `local` for a new one of
            this machine alone.
        num_cpus: CPUs of each worker.
        num_gpus: GPUs of each worker; may be a fraction below 1.
        notify: Called with a status line when something happens.

    Raises:
        SweepError: If the cluster cannot be reached.
    """

    def __init__(
        self,
        worker_class: type,
        arguments: Mapping[str, Any],
        *,
        address: str,
        num_cpus: float,
        num_gpus: float,
        notify: Callable[[str], None],
    ) -> None:
        self._arguments, self._notify = arguments, notify
        _connect(address)
        import ray

        if not _can_ever_run(ray.nodes(), num_cpus, num_gpus):
            notify(
                f"No node of the Ray cluster has {num_cpus:g} CPUs and {num_gpus:g} GPUs now; the workers wait until "
                "one joins. Otherwise stop, and change hydra.sweeper.num_cpus or num_gpus."
            )
        self._actor = ray.remote(worker_class).options(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            max_concurrency=_CALLS_AT_ONCE,
            max_restarts=0,  # the pool starts it again, and the scheduler has the trial resumed
            scheduling_strategy="SPREAD",
        )

    def start(self, number: int) -> "RayWorker":
        """Start a worker; it waits until a node has what it needs."""
        return RayWorker(self._actor.remote(**self._arguments), self._notify)

    def close(self) -> None:
        """Disconnect from the cluster."""
        import ray

        ray.shutdown()


class RayWorker:
    """A worker on some node of the cluster.

    Args:
        actor: The actor.
        notify: Called with each status line of the worker.
    """

    def __init__(self, actor: Any, notify: Callable[[str], None]) -> None:
        self._actor, self._notify = actor, notify
        self._begun = actor.__ray_ready__.remote()
        self._end = actor.run.remote()
        self._lines = actor.next_lines.remote()
        self._was_removed = False

    def wait(self, timeout_s: float) -> WorkerState:
        """Wait for the end of the worker, and pass on its status lines.

        Raises:
            SweepError: The error that ended it.
        """
        import ray
        from ray.exceptions import RayTaskError

        if self._was_removed:
            return "done"
        try:
            ended, _ = ray.wait([self._end], timeout=timeout_s)
            self._show_lines()
            if not ended:
                return "running"
            error = ray.get(self._end)
            self._show_lines(_LAST_LINES_S)  # asked for before the end, and so perhaps without the last ones
            while self._show_lines(_LAST_LINES_S):
                pass
        except RayTaskError:
            self._remove()
            raise  # the worker itself raised it
        except ray.exceptions.RayError as lost:
            self._remove()  # a node that only seems lost must not keep its devices
            if getattr(lost, "actor_init_failed", False):
                raise SweepError(
                    "A node of the Ray cluster must be able to start workers, which needs this version of ptl_prefix "
                    f"there, but one could not: {str(lost).strip().splitlines()[-1]}"
                ) from lost
            self._notify(f"Ray: {_first_line(lost)}")
            return "lost"
        self._remove()
        if error is not None:
            raise SweepError(error)
        return "done"

    def stop(self, *, now: bool) -> None:
        """Ask the worker to end; one that still waits for its node is removed."""
        import ray

        if self._was_removed:
            return
        with suppress(ray.exceptions.RayError):
            begun, _ = ray.wait([self._begun], timeout=0)
            if begun:
                self._actor.stop.remote(now)
            else:
                self._remove()

    def _show_lines(self, timeout_s: float = 0.0) -> bool:
        """Pass on the status lines that have arrived, and ask for the next ones.

        Returns:
            Whether there were any.
        """
        import ray

        arrived, _ = ray.wait([self._lines], timeout=timeout_s)
        if not arrived:
            return False
        lines = ray.get(self._lines)
        for line in lines:
            self._notify(line)
        self._lines = self._actor.next_lines.remote()
        return bool(lines)

    def _remove(self) -> None:
        import ray

        self._was_removed = True
        with suppress(ray.exceptions.RayError):
            ray.kill(self._actor)


def _connect(address: str) -> None:
    import ray

    try:
        if ":" in address:
            # Ray itself would wait for minutes where nothing listens.
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHABLE_S).close()
        # Lines of the workers come through `next_lines`; what else they print is in Ray's own logs.
        # A cluster of its own needs no store for objects, as all that matters is on disk.
        own = {"object_store_memory": _STORE_BYTES, "include_dashboard": False} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, logging_level="WARNING", configure_logging=False, **own)
    except Exception as error:
        raise SweepError(
            f"The Ray cluster of `hydra.sweeper.ray_address` must be reachable, but {address!r} is not: "
            f"{_first_line(error)}. Start one with `ray start --head`, name another address, or use "
            "hydra.sweeper.ray_address=local."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _can_ever_run(nodes: list[dict[str, Any]], num_cpus: float, num_gpus: float) -> bool:
    """Whether a living node has what a worker needs, if nothing else ran there."""
    return any(
        node["Alive"]
        and node["Resources"].get("CPU", 0.0) >= num_cpus
        and node["Resources"].get("GPU", 0.0) >= num_gpus
        for node in nodes
    )
