"""Fingerprints of weights and data, and a description of code, libraries and device.

In: tensors, files or text. Out: a SHA-256 hash in hex, equal if and only if the content is equal, whatever its location
or order. `environment` describes the machine and the code for a record, without user names, host names or home folders.
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
    """The hash of named tensors: names, shapes, dtypes and bytes, in any order.

    Tensors are hashed one after the other, so an iterator over shards needs memory for one tensor at a time.

    Raises:
        ValueError: Two tensors have the same name.
    """
    digests: dict[str, str] = {}
    for name, tensor in named:
        if name in digests:
            raise ValueError(f"Each tensor must have a different name, but {name!r} occurs twice; rename one.")
        content = hashlib.sha256(json.dumps([list(tensor.shape), str(tensor.dtype)]).encode() + b"\n")
        content.update(_raw_bytes(tensor))
        digests[name] = content.hexdigest()
    return fingerprint_text(*(part for item in sorted(digests.items()) for part in item))


def _raw_bytes(tensor: "Tensor") -> memoryview:
    """A tensor's bytes in row-major order, without a copy if possible. NumPy has no bfloat16, hence bytes."""
    import torch

    flat = tensor.detach().cpu().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def fingerprint_file(path: str | Path) -> str:
    """The SHA-256 of a file's content, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_files(paths: Iterable[str | Path]) -> str:
    """The hash of files, in any order: their content, and their names relative to their common folder."""
    absolute = sorted({os.path.abspath(path) for path in paths})
    shared = os.path.commonpath([os.path.dirname(path) for path in absolute]) if absolute else ""
    parts: list[str] = []
    for path in absolute:
        parts += [Path(os.path.relpath(path, shared)).as_posix(), fingerprint_file(path)]
    return fingerprint_text(*parts)


def fingerprint_text(*parts: str) -> str:
    """The hash of a sequence of texts; their boundaries count."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def package_version() -> str:
    """The version of this package; `unknown` if it is not installed."""
    return _version("ptl-prefix") or "unknown"


def environment() -> dict[str, Any]:
    """Describe what results may depend on besides config and data.

    Returns:
        `python`, `platform`, `cpu`, `cores` that this process may use, `devices`, `package_version`, `libraries` by
        name, and `git` with `commit` and `dirty`; `git` is `None` if the package does not run from a git checkout.
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
    """The uncommitted changes of this package's git checkout, as a patch of tracked files; `None` without git."""
    folder = Path(__file__).resolve().parent
    return _output_of("git", "-C", str(folder), "diff", "HEAD", "--no-ext-diff", "--no-color") if _git(folder) else None


def num_cores() -> int:
    """The number of cores that this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def library_versions() -> dict[str, str]:
    """The installed versions of the libraries that results may depend on."""
    return {name: version for name in _LIBRARIES if (version := _version(name))}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's model name: the speed of bfloat16 and the rounding of sums depend on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return _output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _devices() -> list[str]:
    import torch

    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ["mps"] if torch.backends.mps.is_available() else []


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit of the checkout that tracks `folder`; `None` for a virtual environment inside a checkout."""
    git = ("git", "-C", str(folder))
    if not _output_of(*git, "ls-files", "--", Path(__file__).name):
        return None
    commit, changes = _output_of(*git, "rev-parse", "HEAD"), _output_of(*git, "status", "--porcelain")
    return {"commit": commit, "dirty": changes != ""} if commit else None


def _output_of(*command: str) -> str | None:
    """The output of a command; `None` if the command is missing or fails."""
    # Git's own variables, which hooks set, would select another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    variables["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, env=variables)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
