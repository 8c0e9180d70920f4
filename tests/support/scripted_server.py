"""A server with a scripted engine as a process of its own: `python -m support.scripted_server PORT NUM_TASKS`."""

import os
import sys
import threading

from support.live_server import keys, made_service
from support.scripted_engine import ListedStore, ScriptedEngine, embedded_tokenizer, made_up_bundle

from ptl_prefix.serving.http_process import HttpProcess, bind
from ptl_prefix.serving.server import make_app


def main() -> None:
    """Serve the tasks `task-0`, `task-1` and so on until stdin is closed, and print `ready`."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    port, num_tasks = (int(word) for word in sys.argv[1:])
    tokenizer = embedded_tokenizer()
    store = ListedStore([made_up_bundle(f"task-{number}", tokenizer) for number in range(num_tasks)])
    service = made_service(ScriptedEngine(), store)
    process = HttpProcess(
        make_app(service, keys()),
        service,
        drain_timeout_s=5.0,
        rescan_every_s=None,
        when_listening=lambda: print("ready", flush=True),
    )
    process.serve_on(bind("127.0.0.1", port))


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
