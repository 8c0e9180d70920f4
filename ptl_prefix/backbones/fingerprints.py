"""The fingerprints by which a bundle recognises the backbone that it was trained on.

In: the folder of a model, and its config. Out: hashes of the tensors that are loaded, of every file of the tokenizer,
and of what a forward pass depends on in the config.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ptl_prefix.artifacts.fingerprint import fingerprint_files, fingerprint_tensors
from ptl_prefix.backbones.model_config import config_fingerprint
from ptl_prefix.backbones.model_folder import stored_tensors, tokenizer_files

_FIRST_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json")


class Fingerprints(NamedTuple):
    """The fingerprints of a backbone, by their names in a `BackboneIdentity`.

    Args:
        weights_fingerprint: Hash of the tensors, as stored.
        tokenizer_fingerprint: Hash of the tokenizer's files.
        config_fingerprint: Hash of what a forward pass depends on in the config; `None`: as in the first bundles.
    """

    weights_fingerprint: str
    tokenizer_fingerprint: str
    config_fingerprint: str | None


def fingerprints_of(folder: Path, config: Any) -> Fingerprints:
    """The fingerprints of a model in a folder, from the files on disk and its transformers config."""
    weights = fingerprint_tensors(stored_tensors(folder))
    return Fingerprints(weights, fingerprint_files(tokenizer_files(folder)), config_fingerprint(config))


def first_fingerprints_of(folder: Path) -> Fingerprints:
    """The fingerprints as bundles carry them that have none of the config: of all *.safetensors, and of five names.

    Both are those of `fingerprints_of` where the folder holds nothing but the model.
    """
    files = [folder / name for name in _FIRST_TOKENIZER_FILES if (folder / name).is_file()]
    try:
        weights = fingerprint_tensors(_all_tensors(folder))
    except (ValueError, SafetensorError):  # no bundle could be exported beside such files
        weights = fingerprint_tensors(stored_tensors(folder))
    return Fingerprints(weights, fingerprint_files(files), None)


def _all_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as opened:
            yield from ((name, opened.get_tensor(name)) for name in opened.keys())  # noqa: SIM118 - not a dict
