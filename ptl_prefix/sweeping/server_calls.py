"""Calls of functions in a fork of the trial server, which has imported what this process has not.

In: the name of a function and its arguments, as JSON. Out: a future of its result, or of `NoAnswerError` if the fork
failed or died: the caller then does the work itself. The connection is a pair of sockets of its own, which neither the
requests nor the exit codes of trials share.
"""

import itertools
import json
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any


class NoAnswerError(Exception):
    """A call that was not answered: the function raised an error there, or its process died."""


class ServerCalls:
    """This process's end of the connection.

    Args:
        connection: Socket whose other end the fork answers.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._waiting: dict[int, Future[Any]] = {}
        self._numbers = itertools.count()
        threading.Thread(target=self._read, daemon=True).start()

    def call(self, function: str, arguments: Mapping[str, Any]) -> "Future[Any]":
        """Start a call, which waits until the server has imported everything.

        Args:
            function: Name of the function.
            arguments: Its keyword arguments.

        Returns:
            The result, or `NoAnswerError`.
        """
        answer: Future[Any] = Future()
        # Sending may wait for the server to read; answers are taken meanwhile, so it has a lock of its own.
        with self._sending:
            number = next(self._numbers)
            message = {"call": number, "function": function, "arguments": arguments}
            with self._lock:
                self._waiting[number] = answer
            try:
                self._connection.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                self._give_up(number)
        return answer

    def close(self) -> None:
        """Close the connection, which ends the fork; calls without an answer will not have one."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _read(self) -> None:
        """Hand each answer to its caller until the fork has ended; the remaining calls have none."""
        with suppress(OSError), self._connection.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                with self._lock:
                    answer = self._waiting.pop(message["call"])
                if "result" in message:
                    answer.set_result(message["result"])
                else:
                    answer.set_exception(NoAnswerError())
        for number in list(self._waiting):
            self._give_up(number)

    def _give_up(self, number: int) -> None:
        """Say that a call has no answer, unless that was said already."""
        with self._lock:
            answer = self._waiting.pop(number, None)
        if answer is not None:
            answer.set_exception(NoAnswerError())
