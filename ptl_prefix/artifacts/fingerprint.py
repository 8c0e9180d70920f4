"""What code, libraries, device, weights and data this was.

In: tensors, files or text. Out: a SHA-256 in hex, equal if and only if the content is, wherever it lies and in whatever
order it came. Also `environment`, what a record says about the machine and the code. Nothing here says who or where: no
user names, host names or home folders.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # torch takes seconds to import, and only `fingerprint_tensors` and `environment` need it.
    from torch import Tensor

_LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "pytorch-lightning",
    "datasets",
    "peft",
    "hydra-core",
    "numpy",
)


def fingerprint_tensors(named: Iterable[tuple[str, "Tensor"]]) -> str:
    """The content of a state: names, shapes, dtypes and bytes.

    Each tensor is hashed by itself as it comes, so an iterator over shards needs room for one tensor at a time.

    Raises:
        ValueError: If a name comes twice.
    """
    digests: dict[str, str] = {}
    for name, tensor in named:
        if name in digests:
            raise ValueError(f"Tensors must have names of their own, but {name!r} comes twice; rename one.")
        content = hashlib.sha256(json.dumps([list(tensor.shape), str(tensor.dtype)]).encode() + b"\n")
        content.update(_raw_bytes(tensor))
        digests[name] = content.hexdigest()
    return fingerprint_text(*(part for item in sorted(digests.items()) for part in item))


def _raw_bytes(tensor: "Tensor") -> memoryview:
    """A tensor's memory, row by row, not copied if it lies so on the CPU. As bytes, for NumPy has no bfloat16."""
    import torch

    flat = tensor.detach().cpu().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def fingerprint_files(paths: Iterable[str | Path]) -> str:
    """The content of files and their names relative to the folder that they share, whatever the order."""
    absolute = sorted({os.path.abspath(path) for path in paths})
    shared = os.path.commonpath([os.path.dirname(path) for path in absolute]) if absolute else ""
    parts: list[str] = []
    for path in absolute:
        with open(path, "rb") as file:
            parts += [Path(os.path.relpath(path, shared)).as_posix(), hashlib.file_digest(file, "sha256").hexdigest()]
    return fingerprint_text(*parts)


def fingerprint_text(*parts: str) -> str:
    """Some texts in their order; where one ends and the next begins counts."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def package_version() -> str:
    """The version of this package; `unknown` if it runs from a checkout that is not installed."""
    return _version("ptl-prefix") or "unknown"


def environment() -> dict[str, Any]:
    """What a number may depend on besides config and data.

    Returns:
        `python`, `platform`, `cpu`, `cores` that this process may use, `devices`, `package_version`, `libraries` by
        name, and `git` with `commit` and `dirty` if the package runs from a git checkout, else `None`.
    """
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": num_cores(),
        "devices": _devices(),
        "package_version": package_version(),
        "libraries": library_versions(),
        "git": _git(Path(__file__).resolve().parent),
    }


def uncommitted_changes() -> str | None:
    """What this package's checkout has beside its commit, as a patch of files that git tracks; `None` without git."""
    folder = Path(__file__).resolve().parent
    return _answer("git", "-C", str(folder), "diff", "HEAD", "--no-ext-diff", "--no-color") if _git(folder) else None


def num_cores() -> int:
    """Cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def library_versions() -> dict[str, str]:
    """The installed versions of the libraries that numbers may depend on."""
    return {name: version for name in _LIBRARIES if (version := _version(name))}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's model name, which decides what bfloat16 costs and how sums are rounded."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return _answer("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _devices() -> list[str]:
    import torch

    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ["mps"] if torch.backends.mps.is_available() else []


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit of the checkout that tracks `folder`; `None` in a virtual environment that merely lies in one."""
    git = ("git", "-C", str(folder))
    if not _answer(*git, "ls-files", "--", Path(__file__).name):
        return None
    commit, changes = _answer(*git, "rev-parse", "HEAD"), _answer(*git, "status", "--porcelain")
    return {"commit": commit, "dirty": changes != ""} if commit else None


def _answer(*command: str) -> str | None:
    """What a command prints, or `None` if it is not there or fails."""
    # Git's own variables, which hooks set, would point it at another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    variables["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, env=variables)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
