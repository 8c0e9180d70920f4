"""Tests reach nothing outside this machine.

In: nothing. Out: after `forbid_network`, this process raises `ForbiddenNetworkError` whenever it looks up a foreign
name or sends to a foreign address. Loopback and Unix sockets work, and so does binding, which many libraries do to
find a free port. An audit hook sees every Python socket, whichever library opened it, and cannot be removed again. It
raises no `OSError`: a library would take that for a bad connection, and quietly go on without one.
"""

import ipaddress
import socket
import sys
from typing import Any

_CONNECTING = ("socket.connect", "socket.sendto", "socket.sendmsg")
_OWN_NAME = socket.gethostname()
_LOOKING_UP = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")


class ForbiddenNetworkError(RuntimeError):
    """A test tried to reach the network."""


def forbid_network() -> None:
    """Forbid every address but loopback and Unix sockets, for the rest of this process."""
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _LOOKING_UP:
        if not _is_loopback(arguments[0]):
            raise ForbiddenNetworkError(_sentence(f"look up {arguments[0]!r}"))
    elif event in _CONNECTING:
        connection, address = arguments
        # `sendmsg` on a connected socket names no address: the connection was allowed.
        if address is not None and not _is_local(connection, address):
            raise ForbiddenNetworkError(_sentence(f"reach {address!r}"))


def _sentence(attempt: str) -> str:
    return f"Tests must not use the network, but one tried to {attempt}; serve it on 127.0.0.1 or read it from a file."


def _is_local(connection: socket.socket, address: Any) -> bool:
    if connection.family == getattr(socket, "AF_UNIX", None):
        return True
    internet = connection.family in (socket.AF_INET, socket.AF_INET6)
    return internet and isinstance(address, tuple) and _is_loopback(address[0])


def _is_loopback(host: Any) -> bool:
    """Whether a name or address means this machine, as no name at all does."""
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    if name in (None, "", "localhost", _OWN_NAME):
        return True
    try:
        return ipaddress.ip_address(str(name).partition("%")[0]).is_loopback
    except ValueError:
        return False
