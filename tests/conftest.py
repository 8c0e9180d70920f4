"""What every test has: no network, one thread, and the folder of real data if there is one."""

import os
import sys
from pathlib import Path

import pytest
from no_network import forbid_network

_NO_NETWORK = Path(__file__).parent / "no_network"

forbid_network()
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_NO_NETWORK), os.environ.get("PYTHONPATH")]))
# Libraries that ask a hub before they look at the disk would only be refused.
os.environ["HF_HUB_OFFLINE"] = "1"
# Sums over several threads differ in their last bits from one machine to the next.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The optional folder of real data and models."""
    folder = os.environ.get("PTL_PREFIX_DATA")
    if not folder:
        pytest.skip("needs real data: set PTL_PREFIX_DATA to its folder")
    path = Path(folder)
    assert path.is_dir(), f"PTL_PREFIX_DATA must be a folder, but there is none at {folder!r}."
    return path
