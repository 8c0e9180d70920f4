"""The real Hugging Face hub, where a token and a repository are given: what a local stand-in cannot show."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.run_folder import RunFolder

pytestmark = pytest.mark.slow

FETCH = "import sys; from ptl_prefix.artifacts.bundle import read_bundle as read; b = read(sys.argv[1]); "
FETCH += "print(b.origin, b.manifest.tensors_sha256)"


def run_on_the_network(*words: object, cache: Path) -> str:
    """Run Python in a process that may use the network, unlike this one."""
    hidden = {"PYTHONPATH", "HF_HUB_OFFLINE"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    own = {"XDG_CACHE_HOME": str(cache), "HF_HUB_CACHE": str(cache / "hub")}
    process = subprocess.run(
        [sys.executable, *map(str, words)], env=environment | own, capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_a_bundle_comes_back_from_the_real_hub(small_run: RunFolder, tmp_path: Path) -> None:
    repo = os.environ.get("PTL_PREFIX_HUB_REPO")
    if not repo or not os.environ.get("HF_TOKEN"):
        pytest.skip("needs the real hub: set HF_TOKEN, and PTL_PREFIX_HUB_REPO to a private repository to write to")

    words = ("push", f"bundle={small_run.path}", f"repo={repo}", "private=true")
    pushed = run_on_the_network("-m", "ptl_prefix", *words, cache=tmp_path)

    address = pushed.splitlines()[-1].removeprefix("bundle: ")
    expected = f"{address} {read_bundle(small_run.bundle).manifest.tensors_sha256}\n"
    for wanted in (address, f"hub:{repo}"):
        assert run_on_the_network("-c", FETCH, wanted, cache=tmp_path) == expected
