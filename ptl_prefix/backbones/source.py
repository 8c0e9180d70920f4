"""Where a backbone comes from: an embedded one, a local folder, or a name on the Hugging Face hub.

In: a path and a revision. Out: `PretrainedFiles`, which reads config, tokenizer and weights and computes their
fingerprints. `ShapeSource` is the part of it that needs no weights; `shape.py` has another one. Weights are read from
safetensors files only, and code that comes with a model is never run.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from ptl_prefix.artifacts.fingerprint import fingerprint_files, fingerprint_tensors
from ptl_prefix.backbones.attention_sites import FAMILIES, family_of
from ptl_prefix.backbones.quantization import Quantization, loading_options, prepare_for_training
from ptl_prefix.errors import BackboneError

EMBEDDED = Path(__file__).parent / "embedded"
"""The backbones that are shipped inside the package, one folder each."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json")


class ShapeSource(ABC):
    """Gives a backbone's config and tokenizer: enough to know its shape."""

    path: str
    """The backbone's origin, as bundles and records note it."""
    is_local: bool
    """Whether `config` is read without the network."""
    notes: tuple[str, ...] = ()
    """Remarks for the user of a dry run; each continues a sentence that starts with the backbone's name."""

    @property
    @abstractmethod
    def config(self) -> Any:
        """The transformers config, of a family in `FAMILIES`.

        Raises:
            BackboneError: When it cannot be read, or the family is not supported.
        """

    @abstractmethod
    def problems(self) -> list[str]:
        """What is wrong with the source, found without reading weights and without the network."""

    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer.

        Raises:
            BackboneError: When it has no end-of-text token.
        """


class PretrainedFiles(ShapeSource):
    """A pretrained model in the Hugging Face format.

    Args:
        path: Name of an embedded backbone, local folder, or name on the hub.
        revision: Revision on the hub; `None` is the newest one.
    """

    def __init__(self, path: str, revision: str | None = None) -> None:
        self.path = path
        self.revision = revision or "main"
        self.is_local = self.folder is not None

    @property
    def folder(self) -> Path | None:
        """The local folder; `None` for a name on the hub."""
        embedded = EMBEDDED / self.path
        if "/" not in self.path and embedded.is_dir():
            return embedded
        local = Path(self.path).expanduser()
        return local if local.exists() or self.path.startswith((".", "/", "~")) else None

    def problems(self) -> list[str]:
        """Missing files and an unsupported family; a hub name has no problems before it is loaded."""
        if self.folder is None:
            return []
        if not (self.folder / "config.json").is_file():
            return [f"`backbone.path` must be a folder with a config.json, but '{self.folder}' has none."]
        if not sorted(self.folder.glob("*.safetensors")):
            return [
                f"`backbone.path` must hold its weights as *.safetensors, but '{self.folder}' has none; "
                "convert them with transformers' save_pretrained."
            ]
        try:
            _ = self.config
        except BackboneError as error:
            return [f"`backbone.path`: {error}"]
        return []

    @property
    def config(self) -> Any:
        """The transformers config; see `ShapeSource.config`."""
        return self._config

    @cached_property
    def _config(self) -> Any:
        try:
            config = AutoConfig.from_pretrained(self._location, revision=self.revision, trust_remote_code=False)
        except OSError as error:
            raise BackboneError(
                f"A backbone must be an embedded name, a local folder or a hub name that can be reached, but "
                f"'{self.path}' is none: {str(error).splitlines()[0]}"
            ) from error
        except ValueError as error:
            # transformers does not know the type, or would need the model's own code.
            raise BackboneError(
                f"A backbone must be one of the families {', '.join(sorted(FAMILIES))}, whose code is "
                f"transformers' own, but '{self.path}' is not: {str(error).splitlines()[0]}"
            ) from error
        family_of(config)  # raises for an unsupported family
        return config

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; see `ShapeSource.tokenizer`."""
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            self._location, revision=self.revision, trust_remote_code=False
        )
        if tokenizer.eos_token_id is None:
            raise BackboneError(
                f"A backbone's tokenizer must have an end-of-text token, but that of '{self.path}' has none."
            )
        return tokenizer

    def model(self, *, quantization: Quantization | None, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
        """The model with its weights, on `device`.

        Raises:
            BackboneError: When files cannot be read, or weights are missing.
        """
        try:
            return self._model(quantization, dtype, device)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise BackboneError(
                f"A backbone must be an embedded name, a local folder or a hub name that can be reached with "
                f"safetensors weights, but '{self.path}' could not be loaded: {error}"
            ) from error

    def _model(self, quantization: Quantization | None, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
        options = loading_options(quantization, device=device, dtype=dtype) if quantization else {}
        with without_progress_bar():
            loaded: Any = model_class(self.config).from_pretrained(
                self._location,
                revision=self.revision,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
        model: PreTrainedModel = loaded[0]
        if missing := sorted(loaded[1]["missing_keys"]):
            # transformers would only warn, and initialise them at random.
            raise BackboneError(
                f"A backbone must have all its weights, but '{self.path}' lacks {len(missing)} tensors, {missing[0]} "
                "among them; get the whole model again."
            )
        if quantization is None:
            return model.to(device)  # type: ignore[arg-type, no-any-return]
        prepare_for_training(model, quantization)
        return model

    def fingerprints(self) -> tuple[str, str]:
        """The fingerprints of the weights and of the tokenizer, from the files on disk."""
        folder = self.folder or _snapshot(self.path, self.revision)
        weights = fingerprint_tensors(_stored_tensors(folder))
        return weights, fingerprint_files([folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()])

    @property
    def _location(self) -> str:
        return self.path if self.folder is None else str(self.folder)


def model_class(config: Any) -> Any:
    """The class of transformers that builds the model of a config, with its LM head."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Inside, transformers shows no progress bar for reading and writing weights."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()


def _stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors as stored on disk: independent of how files are split, and of the dtype they are loaded in."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                yield name, tensors.get_tensor(name)


def _snapshot(path: str, revision: str) -> Path:
    """The local copy of a hub model that has been loaded."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, revision=revision, local_files_only=True))
