"""The files of a model folder in the Hugging Face format.

In: a folder. Out: the tensors that are loaded from it, its tokenizer's files and its config's values; or what is wrong
with them. The tensors are those that `model.safetensors.index.json` names, or all of `model.safetensors`: an adapter, a
variant or a second file beside them is never loaded.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ptl_prefix.artifacts.json_document import DocumentError, parse_json
from ptl_prefix.artifacts.lfs_pointer import lfs_pointer_fact
from ptl_prefix.errors import BackboneError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
GENERATION_CONFIG_FILE = "generation_config.json"
INDEX_FILE = "model.safetensors.index.json"

_TOKENIZER_ENDS = (".model", ".spm", ".bpe", ".tiktoken")
_TOKENIZER_PARTS = ("token", "vocab", "merges")
_TOKENIZER_KINDS = (".json", ".txt", ".model", ".spm", ".bpe", ".tiktoken")
_MAX_JSON_BYTES = 64 * 2**20


def file_problem(folder: Path) -> str | None:
    """The first reason why the files of a folder cannot be a model and its tokenizer, as a sentence; no tensor is read.

    A file that is read later may still hold wrong values; see `model_config.py` and `tokenizer_checks.py`.
    """
    if not (folder / CONFIG_FILE).is_file():
        return f"`backbone.path` must be a folder with a config.json, but '{folder}' has none."
    for path in sorted(folder.glob("*")):
        if fact := lfs_pointer_fact(path):
            return f"`backbone.path` must hold the model's files, but '{path}' {fact}."
    try:
        tensor_files(folder)
    except BackboneError as error:
        return str(error)
    if not tokenizer_files(folder):
        return (
            f"`backbone.path` must hold the model's tokenizer, such as tokenizer.json, but '{folder}' has no tokenizer "
            "file; copy it from where the model comes from."
        )
    return None


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder, such as config.json.

    Raises:
        BackboneError: The file cannot be read, or is no such JSON.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise DocumentError(f"is longer than {_MAX_JSON_BYTES} bytes")
        values = parse_json(path.read_bytes(), finite=False)
        if not isinstance(values, dict):
            raise DocumentError("is not a JSON object")
    except (DocumentError, OSError) as error:
        raise BackboneError(
            f"A model's {path.name} must be a JSON object, but '{path}' {error}; get it again."
        ) from error
    return values


def tensor_files(folder: Path) -> dict[str, Path]:
    """The file of each tensor that is loaded from a folder, by the tensor's name, in the files' order.

    Raises:
        BackboneError: There are no such files, or two sets of them; or a file is damaged or lacks a tensor.
    """
    whole, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if whole.is_file() and index.is_file():
        raise BackboneError(
            f"`backbone.path` must hold one set of weights, but '{folder}' has both {WEIGHTS_FILE} and {INDEX_FILE}; "
            "remove the one that is not the model's."
        )
    if index.is_file():
        return _indexed_files(folder, index)
    if not whole.is_file():
        raise BackboneError(
            f"`backbone.path` must hold its weights as *.safetensors: {WEIGHTS_FILE}, or the files that {INDEX_FILE} "
            f"names, but '{folder}' has neither; convert them with transformers' save_pretrained."
        )
    return dict.fromkeys(_names_in(whole), whole)


def _indexed_files(folder: Path, index: Path) -> dict[str, Path]:
    named = read_json_object(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise BackboneError(f"{INDEX_FILE} must name the file of each tensor as `weight_map`, but '{index}' does not.")
    held = {}
    for name in sorted(set(named.values())):
        if os.path.basename(name) != name or not (folder / name).is_file():
            raise BackboneError(f"{INDEX_FILE} must name files of its folder, but '{folder}' has no '{name}'; get it.")
        held[name] = set(_names_in(folder / name))
    for tensor, name in named.items():
        if tensor not in held[name]:
            raise BackboneError(f"A file must hold the tensors that {INDEX_FILE} names, but '{name}' lacks '{tensor}'.")
    return {tensor: folder / name for tensor, name in sorted(named.items(), key=lambda item: (item[1], item[0]))}


def _names_in(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise BackboneError(
            f"A backbone's weights must be whole safetensors files, but '{path}' could not be loaded: {error}; get it "
            "again."
        ) from error


def open_tensors(folder: Path) -> dict[str, Any]:
    """The tensors of a folder by name, as slices of safetensors, whose numbers are read only when they are used."""
    opened: dict[Path, Any] = {}
    slices = {}
    for name, path in tensor_files(folder).items():
        if path not in opened:
            opened[path] = safe_open(path, framework="pt")
        slices[name] = opened[path].get_slice(name)
    return slices


def stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors that are loaded, as stored: independent of how files are split, and of the dtype in memory."""
    return ((name, part[...]) for name, part in open_tensors(folder).items())


def tokenizer_files(folder: Path) -> list[Path]:
    """Every file that a tokenizer may be read from."""
    return [
        path
        for path in sorted(folder.glob("*"))
        if path.is_file()
        and path.suffix in _TOKENIZER_KINDS
        and (path.suffix in _TOKENIZER_ENDS or any(part in path.name for part in _TOKENIZER_PARTS))
    ]


@contextmanager
def system_errors(folder: Path) -> Iterator[None]:
    """Raise the system's error where safetensors or tokenizers, inside, only have it in their error's text.

    Raises:
        OSError: If the disk does not take a file.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error
        raise


def has_adapter(folder: Path) -> bool:
    """Whether an adapter lies beside the weights; it is not loaded."""
    return (folder / "adapter_config.json").is_file()
