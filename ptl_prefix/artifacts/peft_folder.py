"""The folder of an adapter in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

In: an adapter, or such a folder from anyone. Out: the folder, whole or not at all; or the adapter. What its
numbers mean is known by `methods/peft_format.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ptl_prefix.artifacts.atomic import write_folder_atomically, write_new_file
from ptl_prefix.artifacts.hub_address import is_hub_address
from ptl_prefix.artifacts.hub_bundle import fetch_adapter
from ptl_prefix.artifacts.json_document import DocumentError, parse_json
from ptl_prefix.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
_MOST_BYTES = {CONFIG_FILE: 2**20, TENSORS_FILE: 16 * 2**30}
"""The files of an adapter on the hub, and the most bytes of each that are fetched."""


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter as PEFT stores it.

    Args:
        config: Content of `adapter_config.json`.
        tensors: Content of `adapter_model.safetensors`.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, "Tensor"]


def write_peft(folder: Path, adapter: PeftAdapter) -> None:
    """Write an adapter's folder, whole or not at all.

    Raises:
        OSError: When the disk does not take a file.
    """
    with write_folder_atomically(folder) as unfinished:
        write_new_file(unfinished / CONFIG_FILE, f"{json.dumps(adapter.config, indent=2, sort_keys=True)}\n".encode())
        write_new_file(unfinished / TENSORS_FILE, save(dict(adapter.tensors), metadata={"format": "pt"}))


def find_adapter(path: str) -> Path:
    """The folder of an adapter: the path itself, or what was fetched from `hub:<user>/<name>[@<revision>]`.

    Raises:
        HubError: The adapter is on the hub and cannot be fetched.
    """
    return fetch_adapter(path, _MOST_BYTES) if is_hub_address(path) else Path(path)


def read_peft(folder: Path) -> PeftAdapter:
    """Read an adapter's folder. Pickled weights are not read.

    Raises:
        BundleError: When a file is missing or damaged.
    """
    try:
        config = parse_json((folder / CONFIG_FILE).read_bytes(), finite=False)
        if not isinstance(config, dict):
            raise DocumentError("is not a JSON object")
        tensors = load_file(folder / TENSORS_FILE)
    except (DocumentError, OSError, SafetensorError, ValueError) as error:
        raise BundleError(
            f"An adapter of PEFT must be a folder with {CONFIG_FILE} and {TENSORS_FILE}, but '{folder}' is not: "
            f"{error}; save it with PEFT's save_pretrained."
        ) from error
    return PeftAdapter(config, tensors)
