import socket
import subprocess
import sys
from pathlib import Path

import pytest
from no_network import ForbiddenNetworkError

OUTSIDE = "192.0.2.1"  # TEST-NET-1: nobody's address, so that a broken guard reaches nobody


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)


def test_a_foreign_address_is_refused_with_the_way_out() -> None:
    with socket.socket() as connection, pytest.raises(ForbiddenNetworkError, match=r"192\.0\.2\.1.*127\.0\.0\.1"):
        connection.connect((OUTSIDE, 80))


def test_a_foreign_name_is_not_even_looked_up() -> None:
    with pytest.raises(ForbiddenNetworkError, match=r"look up 'example\.org'"):
        socket.create_connection(("example.org", 443))
    with pytest.raises(ForbiddenNetworkError):
        socket.gethostbyname("example.org")


def test_a_datagram_is_refused_like_a_connection() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection, pytest.raises(ForbiddenNetworkError):
        connection.sendto(b"", (OUTSIDE, 53))


def test_the_refusal_is_no_os_error_that_a_library_would_take_for_a_bad_line() -> None:
    assert not issubclass(ForbiddenNetworkError, OSError)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_works(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection((host, server.getsockname()[1]), timeout=5) as client:
            client.sendall(b"hello")
            accepted, _ = server.accept()
        with accepted:
            assert accepted.recv(5) == b"hello"


def test_unix_sockets_work(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))


def test_a_child_process_is_refused_too() -> None:
    child = run_python(f"import socket; socket.create_connection(({OUTSIDE!r}, 80), timeout=1)")

    assert child.returncode == 1
    assert "ForbiddenNetworkError: Tests must not use the network" in child.stderr


def test_a_child_process_may_use_loopback() -> None:
    child = run_python(
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(server.getsockname()).close()\n"
    )

    assert child.returncode == 0, child.stderr
