"""The process of a server: its socket, its signals, and the tasks beside the requests.

In: an application and its service. Out: it served until a signal or a failure of the engine, and the exit code of that.
SIGTERM and Ctrl-C stop it gently: new requests get 503, and what was accepted is finished, for a while; a second signal
stops it at once.
"""

import asyncio
import ipaddress
import logging
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import uvicorn

from ptl_prefix.errors import ConfigError
from ptl_prefix.serving.http_connection import WatchedConnection
from ptl_prefix.serving.service import Service

ENGINE_FAILED = 4
"""Exit code after the engine has died or hangs."""

_BACKLOG = 1024
_KEEP_ALIVE_S = 30
_CLOSING_S = 2
_logger = logging.getLogger("ptl_prefix.serving")


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, before anything slow is loaded; 0 takes a free port.

    Raises:
        ConfigError: When the address cannot be had.
    """
    try:
        family, address = _resolved(host, port)
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        fact = f"cannot be bound ({getattr(error, 'strerror', None) or error})"
        raise ConfigError(
            [f"`host` and `port` must be a free address of this machine, but {host}:{port} {fact}; choose another."]
        ) from error
    return bound


def _resolved(host: str, port: int) -> tuple[int, Any]:
    """The family and address of a host; a name is looked up, a number need not be."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return family, address
    return (socket.AF_INET if version == 4 else socket.AF_INET6), (host, port)


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    host = str(bound.getsockname()[0])
    return host.startswith("127.") or host == "::1"


def address_of(bound: socket.socket) -> str:
    """The address of a socket as a browser wants it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HttpProcess(uvicorn.Server):
    """A server of this process.

    Args:
        app: The application.
        service: What it answers with.
        drain_timeout_s: Seconds for which accepted requests may go on after a signal.
        rescan_every_s: Seconds between two looks at the folder of bundles; `None` never looks.
        when_listening: Called once connections are accepted.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        service: Service,
        *,
        drain_timeout_s: float,
        rescan_every_s: float | None,
        when_listening: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=WatchedConnection,
                ws="none",
                lifespan="off",
                loop="asyncio",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_CLOSING_S,
            )
        )
        self._service = service
        self._drain_timeout_s = drain_timeout_s
        self._rescan_every_s = rescan_every_s
        self._when_listening = when_listening
        self._drain_until_s: float | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.exit_code = 0
        """Exit code of the process after it served."""

    def serve_on(self, bound: socket.socket) -> int:
        """Serve on a bound socket until a signal; the exit code."""
        try:
            self.run([bound])
        finally:
            self._service.close()
        return self.exit_code

    def stop(self) -> None:
        """Stop gently: accept nothing more, finish what was accepted, then end."""
        if self._drain_until_s is None:
            self._service.admission.is_draining = True
            self._drain_until_s = time.monotonic() + self._drain_timeout_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gently at the first signal, at once at the second."""
        if self._drain_until_s is None:
            num = self._service.admission.num_held
            waits = f" It finishes {num} text(s), for at most {self._drain_timeout_s:g} s." if num else ""
            # `print` may be interrupted by this very handler in the middle of a line.
            os.write(2, f"The server stops.{waits}\n".encode())
            self.stop()
        else:
            self.exit_code = 128 + sig
            self.should_exit = self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and begin the tasks beside them."""
        await super().startup(sockets)
        self._when_listening()
        self._tasks.append(asyncio.create_task(self._self_test()))
        if self._rescan_every_s is not None:
            self._tasks.append(asyncio.create_task(self._watch(self._rescan_every_s)))

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether the process ends now."""
        if (problem := self._service.health.fatal_problem()) is not None:
            print(f"The server ends, as {problem}; its supervisor may start it again.", file=sys.stderr, flush=True)
            # A hung thread cannot be ended, and would keep the process.
            os._exit(ENGINE_FAILED)
        if self._drain_until_s is not None and not self.should_exit:
            is_late = time.monotonic() > self._drain_until_s
            if is_late and self._service.admission.num_held:
                self.exit_code = 1
                self._service.cut_off()
                _logger.warning("%d texts were cut off after the drain timeout.", self._service.admission.num_held)
            self.should_exit = is_late or not self._service.admission.num_held
        return bool(await super().on_tick(counter))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the tasks and the connections."""
        for task in self._tasks:
            task.cancel()
        await super().shutdown(sockets)

    async def _self_test(self) -> None:
        try:
            await self._service.self_test()
        except Exception:
            _logger.exception("The generation at the start failed; /ready says so.")

    async def _watch(self, every_s: float) -> None:
        """Look at the folder of bundles now and then; a problem is reported when it is another one than before."""
        reported = ""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._service.rescan()
                reported = ""
            except Exception as error:
                if str(error) != reported:
                    reported = str(error)
                    _logger.warning("The folder of bundles could not be read: %s", reported)
