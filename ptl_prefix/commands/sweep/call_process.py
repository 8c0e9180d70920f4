"""A fork of the trial server that answers calls: it checks configs for the command that started the server.

In: lines of JSON from a socket, each with the name of a function of `server_checks.py` and its arguments. Out: a line
with the result of each; or one without a result if the function raised an error, which the caller then meets itself.
The fork ends when the other end of the socket is closed.
"""

import importlib
import json
import os
import socket
import traceback
from typing import Any, NoReturn

_FUNCTIONS = "ptl_prefix.commands.sweep.server_checks"


def fork_for_calls(connection: int, requests: int) -> None:
    """Fork a process that answers calls.

    Args:
        connection: File descriptor of the socket; closed here.
        requests: File descriptor of the requests for trials, which the fork closes.
    """
    if os.fork() == 0:
        # Whoever waits for the end of these pipes waits for the server, not for this fork.
        os.close(requests)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((nothing, 0), (2, 1)):
            os.dup2(old, new)
        answer_calls(socket.socket(fileno=connection))
    os.close(connection)


def answer_calls(connection: socket.socket) -> NoReturn:
    """Answer calls until the connection is closed, and exit."""
    try:
        with connection.makefile("rb") as lines:
            for line in lines:
                connection.sendall(json.dumps(_answer(json.loads(line))).encode() + b"\n")
    except OSError:
        pass  # the caller has gone
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _answer(message: dict[str, Any]) -> dict[str, Any]:
    number = {"call": message["call"]}
    try:
        # Imported at the first call: without `warm` this takes seconds, which no trial should wait for.
        function = getattr(importlib.import_module(_FUNCTIONS), message["function"])
        return {**number, "result": function(**message["arguments"])}
    except Exception:
        traceback.print_exc()
        return number
