"""What every test has: no network, one thread, checked shapes, tiny backbones, and real data if there is any."""

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook
from no_network import forbid_network
from support.shape_checks import CHECKED_ROOMS
from support.tiny_backbones import TINY_CONFIGS, save_tiny_backbone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.object_store import FaultyStore

    from ptl_prefix.backbones.backbone import Backbone

_NO_NETWORK = Path(__file__).parent / "no_network"

forbid_network()
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_NO_NETWORK), os.environ.get("PYTHONPATH")]))
# What is tested of W&B says so itself.
os.environ["WANDB_MODE"] = "disabled"
# Libraries that ask a hub before they look at the disk would only be refused.
os.environ["HF_HUB_OFFLINE"] = "1"
# Sums over several threads differ in their last bits from one machine to the next.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)

# The same examples wherever the tests run, however busy the machine is; HYPOTHESIS_PROFILE=explore draws new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Only now: what is imported before is not checked.
install_import_hook(CHECKED_ROOMS, "support.shape_checks.checked")
# Before a test imports transformers, which imports torchao and bitsandbytes: they log that kernels are missing here.
importlib.import_module("ptl_prefix.backbones.library_logging").silence_library_messages()


@pytest.fixture(scope="session")
def bucket() -> "Iterator[FaultyStore]":
    """A bucket behind a faulty proxy."""
    from support.object_store import faulty_store

    with faulty_store() as store:
        yield store


@pytest.fixture
def store(bucket: "FaultyStore", monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "FaultyStore":
    """The empty bucket without faults, and an empty cache; the libraries find it by environment variables."""
    from ptl_prefix.artifacts.remote import object_store, outputs_url

    bucket.empty()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(object_store, "_FIRST_PAUSE_S", 0.01)
    outputs_url.outputs_url_problem.cache_clear()
    return bucket


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a tiny random model and its tokenizer, by family."""
    return {family: save_tiny_backbone(family, tmp_path_factory.mktemp(family)) for family in TINY_CONFIGS}


@pytest.fixture(scope="session")
def new_backbone(tiny_folders: dict[str, Path]) -> "Callable[[str], Backbone]":
    """Makes a tiny backbone of a family in float32: each family is loaded once, and copied for each test."""
    from support.copied_backbone import copied

    from ptl_prefix.backbones.spec import load_backbone

    loaded: dict[str, Backbone] = {}

    def new(family: str) -> "Backbone":
        if family not in loaded:
            loaded[family] = load_backbone(str(tiny_folders[family]), name=family, dtype="float32")
        return copied(loaded[family])

    return new


@pytest.fixture(params=["gpt2", "llama"])
def backbone(request: pytest.FixtureRequest, new_backbone: "Callable[[str], Backbone]") -> "Backbone":
    """A tiny decoder-only backbone in float32, fresh for each test: one of either kind of positions."""
    return new_backbone(request.param)


@pytest.fixture(params=["bart", "t5"])
def encoder_decoder(request: pytest.FixtureRequest, new_backbone: "Callable[[str], Backbone]") -> "Backbone":
    """A tiny encoder-decoder in float32, fresh for each test."""
    return new_backbone(request.param)


@pytest.fixture(params=sorted(TINY_CONFIGS))
def any_backbone(request: pytest.FixtureRequest, new_backbone: "Callable[[str], Backbone]") -> "Backbone":
    """A tiny backbone in float32, fresh for each test; each test runs with every family."""
    return new_backbone(request.param)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The optional folder of real data and models."""
    folder = os.environ.get("PTL_PREFIX_DATA")
    if not folder:
        pytest.skip("needs real data: set PTL_PREFIX_DATA to its folder")
    path = Path(folder)
    assert path.is_dir(), f"PTL_PREFIX_DATA must be a folder, but there is none at {folder!r}."
    return path
