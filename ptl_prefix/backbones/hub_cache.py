"""Models in the cache of the Hugging Face hub, from file names alone: neither transformers nor torch is imported."""

from pathlib import Path

from ptl_prefix.artifacts.hub import model_cache_folder

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def cached_snapshot(name: str) -> Path | None:
    """The folder of a model that was downloaded with its weights; `None` if there is none.

    Args:
        name: Name on the hub.
    """
    folder = model_cache_folder() / f"models--{name.replace('/', '--')}" / "snapshots"
    found = [path for path in folder.glob("*") if any((path / weights).exists() for weights in _WEIGHTS)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
