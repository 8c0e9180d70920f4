"""A temporary PostgreSQL server in its own folder, reachable by a Unix socket only."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_DEBIANS = Path("/usr/lib/postgresql")
_PATIENCE_S = 60
_ADMINISTRATOR = "postgres"


def postgres_bin() -> Path | None:
    """The folder of `initdb` and `pg_ctl`: on `PATH`, or the newest version in Debian's place; `None` without one."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    versions = _DEBIANS.iterdir() if _DEBIANS.is_dir() else ()
    there = [path / "bin" for path in versions if (path / "bin/initdb").exists()]
    return max(there, key=lambda path: int(path.parent.name), default=None)


@contextmanager
def postgres_server(programs: Path, *, max_connections: int = 50, is_durable: bool = False) -> Iterator[str]:
    """Start a server, and stop it at the end of the block.

    Args:
        programs: The folder that `postgres_bin` returns.
        max_connections: Connections that it takes at a time.
        is_durable: Whether a commit waits for the disk, as on a server whose data matter.

    Yields:
        The URL of an empty database.
    """
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    # PostgreSQL does not run as root.
    as_user: dict[str, Any] = {}
    if os.getuid() == 0:
        as_user = {"user": _ADMINISTRATOR, "group": _ADMINISTRATOR, "extra_groups": []}
        shutil.chown(folder, _ADMINISTRATOR, _ADMINISTRATOR)
    data, control = folder / "data", programs / "pg_ctl"

    def run(program: Path, *words: str | Path) -> None:
        done = subprocess.run(
            [program, *words],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_PATIENCE_S,
            **as_user,
        )
        if done.returncode:
            log = folder / "log"
            raise RuntimeError(done.stderr.decode() + (log.read_text() if log.exists() else ""))

    try:
        run(
            programs / "initdb",
            "-D",
            data,
            "-U",
            _ADMINISTRATOR,
            "--auth=trust",
            "--no-sync",
            "--no-locale",
            "-E",
            "UTF8",
        )
        fsync = "on" if is_durable else "off"
        options = f"-k {folder} -c listen_addresses= -c fsync={fsync} -c max_connections={max_connections}"
        run(control, "-D", data, "-l", folder / "log", "-w", "-o", options, "start")
        try:
            yield f"postgresql://{_ADMINISTRATOR}@/postgres?host={folder}"
        finally:
            run(control, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
