"""A vLLM server with our connector, on loopback, from an environment of its own.

In: the Python of that environment, a model's folder and a folder of bundles. Out: the server's address while the block
runs; its log, and the counters of its metrics.
"""

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

START_S = 900.0
"""vLLM imports for a minute on a fast machine."""


@dataclass(frozen=True)
class VllmServer:
    """A server that runs.

    Args:
        url: Its address.
        log: File with its output.
    """

    url: str
    log: Path

    def counter(self, name: str) -> float:
        """The value of a counter of its metrics, summed over its labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        return sum(float(value) for value in re.findall(rf"^vllm:{name}{{[^}}]*}} (\S+)$", text, re.M))


@contextmanager
def running_vllm(python: Path, model: Path, bundles: Path, log: Path, *options: str) -> Iterator[VllmServer]:
    """Start a server, wait until it answers, and end it with all of its processes."""
    port = _free_port()
    transfer = {
        "kv_connector": "TrainedPrefixConnector",
        "kv_role": "kv_consumer",
        "kv_connector_module_path": "ptl_prefix.serving.vllm_connector",
        "kv_connector_extra_config": {"bundles": str(bundles)},
    }
    command = [python.parent / "vllm", "serve", model, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--served-model-name", "base", "--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
    command += ["--max-num-seqs", "8", "--kv-transfer-config", json.dumps(transfer), *options]
    own = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_HOST_IP": "127.0.0.1"}
    own |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | own, stdout=output, stderr=output, cwd=log.parent, start_new_session=True
        )
    server = VllmServer(f"http://127.0.0.1:{port}", log)
    try:
        _wait(process, server)
        yield server
    finally:
        for sent in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, sent)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)


def _wait(process: subprocess.Popen[bytes], server: VllmServer) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert process.poll() is None, f"vLLM has ended:\n{server.log.read_text()[-4000:]}"
        with suppress(OSError), urllib.request.urlopen(f"{server.url}/health", timeout=5):
            return
        time.sleep(1)
    raise AssertionError(f"vLLM did not start in {START_S:.0f} s:\n{server.log.read_text()[-4000:]}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
