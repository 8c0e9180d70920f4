"""Where a backbone comes from: an embedded one, a local folder, or a name on the Hugging Face hub.

In: a path and a revision. Out: `PretrainedFiles`, which reads config, tokenizer and weights and computes their
fingerprints. `ShapeSource` is the part of it that needs no weights; `shape.py` has another one. Weights are read from
safetensors files only, and code that comes with a model is never run.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from ptl_prefix.artifacts.manifest import Quantization
from ptl_prefix.backbones.attention_sites import FAMILIES, family_of
from ptl_prefix.backbones.fingerprints import Fingerprints, fingerprints_of, first_fingerprints_of
from ptl_prefix.backbones.model_config import value_problem
from ptl_prefix.backbones.model_folder import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    INDEX_FILE,
    WEIGHTS_FILE,
    file_problem,
    has_adapter,
    open_tensors,
    read_json_object,
)
from ptl_prefix.backbones.model_loading import build_model, first_line
from ptl_prefix.backbones.quantization import loading_options, prepare_for_training
from ptl_prefix.backbones.tokenizer_checks import tokenizer_problem, used_id_problem
from ptl_prefix.errors import BackboneError, PtlPrefixError

EMBEDDED = Path(__file__).parent / "embedded"
"""The backbones that are shipped inside the package, one folder each."""


class ShapeSource(ABC):
    """Gives a backbone's config and tokenizer: enough to know its shape."""

    path: str
    """The backbone's origin, as bundles and records note it."""

    @property
    @abstractmethod
    def is_local(self) -> bool:
        """Whether `config` is read without the network and without a conversion."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user of a dry run; each continues a sentence that starts with the backbone's name."""
        return ()

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

    @property
    def is_local(self) -> bool:
        """Whether the files are in a local folder."""
        return self.folder is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user of a dry run; see `ShapeSource.notes`."""
        if self.folder is None or not has_adapter(self.folder):
            return ()
        return ("has an adapter_config.json beside its weights; the adapter is not loaded",)

    @property
    def folder(self) -> Path | None:
        """The local folder; `None` for a name on the hub."""
        embedded = EMBEDDED / self.path
        if "/" not in self.path and embedded.is_dir():
            return embedded
        try:
            local = Path(self.path).expanduser()
        except RuntimeError:  # `~name` of nobody
            local = Path(self.path)
        return local if local.exists() or self.path.startswith((".", "/", "~")) else None

    def problems(self) -> list[str]:
        """What is wrong with the files of a local folder, found without reading weights: their names and shapes only.

        A hub name has no problems before it is loaded.
        """
        if self.folder is None:
            return []
        if problem := file_problem(self.folder):
            return [problem]
        try:
            _ = self.config
            tokenizer = self.tokenizer()
        except BackboneError as error:
            return [f"`backbone.path`: {error}"]
        if getattr(self.config, "quantization_config", None) is not None:
            return []  # `quantization.py` refuses such weights, whose shapes are others
        problem = used_id_problem(tokenizer, self.config, of=self.path) or self._shape_problem
        return [] if problem is None else [f"`backbone.path`: {problem}"]

    @property
    def config(self) -> Any:
        """The transformers config; see `ShapeSource.config`."""
        return self._config

    @cached_property
    def _config(self) -> Any:
        try:
            if problem := value_problem(self._config_values()):
                raise BackboneError(problem)
            config = AutoConfig.from_pretrained(self._location, revision=self.revision, trust_remote_code=False)
        except PtlPrefixError:
            raise
        except OSError as error:
            raise BackboneError(
                f"A backbone must be an embedded name, a local folder or a hub name that can be reached, but "
                f"'{self.path}' is none: {str(error).splitlines()[0]}"
            ) from error
        except Exception as error:
            # transformers does not know the type, would need the model's own code, or fails on a value in its own way.
            raise BackboneError(
                f"A backbone must be one of the families {', '.join(sorted(FAMILIES))}, whose code is "
                f"transformers' own, but '{self.path}' is not: {first_line(error)}"
            ) from error
        family_of(config)  # raises for an unsupported family
        return config

    def _config_values(self) -> dict[str, Any]:
        """The values of config.json, before transformers makes anything of them."""
        if self.folder is not None:
            return read_json_object(self.folder / CONFIG_FILE)
        values, _ = PretrainedConfig.get_config_dict(self.path, revision=self.revision)
        return values

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; see `ShapeSource.tokenizer`.

        Raises:
            BackboneError: When it cannot be read, has no end-of-text token, or knows no words.
        """
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                self._location, revision=self.revision, trust_remote_code=False
            )
            problem = tokenizer_problem(tokenizer, of=self.path)
        except PtlPrefixError:
            raise
        except Exception as error:  # damaged files raise many types of errors
            raise BackboneError(
                f"A tokenizer must be in a local folder or on a hub that can be reached, but '{self._location}' has "
                f"none: {first_line(error)}"
            ) from error
        if problem is not None:
            raise BackboneError(problem)
        return tokenizer

    def model(self, *, quantization: Quantization | None, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
        """The model with its weights, on `device`.

        Raises:
            BackboneError: When files cannot be read, or the weights are not those of the config's model.
        """
        folder = self._local_folder()
        options = loading_options(quantization, device=device, dtype=dtype) if quantization else {}
        model = build_model(self.config, open_tensors(folder), of=self.path, dtype=dtype, **options)
        model.config.name_or_path = self._location
        if (generation_config := _generation_config(folder)) is not None:
            model.generation_config = generation_config
        if quantization is None:
            return model.to(device)  # type: ignore[arg-type, no-any-return]
        prepare_for_training(model, quantization)
        return model

    @cached_property
    def _shape_problem(self) -> str | None:
        """Why the stored tensors are not those of the config's model, from their names and shapes alone."""
        try:
            stored = open_tensors(self._local_folder()).items()
            shapes = {name: torch.empty(part.get_shape(), device="meta") for name, part in stored}
            build_model(self.config, shapes, of=self.path, dtype=torch.float32, device_map={"": torch.device("meta")})
        except BackboneError as error:
            return str(error)
        return None

    def fingerprints(self) -> Fingerprints:
        """The fingerprints of weights, tokenizer and config."""
        return fingerprints_of(self._local_folder(), self.config)

    def first_fingerprints(self) -> Fingerprints:
        """The fingerprints as the first bundles carry them."""
        return first_fingerprints_of(self._local_folder())

    def _local_folder(self) -> Path:
        """The folder with the weights; those of a hub name are downloaded if they are not there yet."""
        return self.folder or _downloaded_folder(self.path, self.revision)

    @property
    def _location(self) -> str:
        return self.path if self.folder is None else str(self.folder)


def _generation_config(folder: Path) -> GenerationConfig | None:
    """The model's own generation config, which may state the start of an encoder-decoder's target."""
    if not (folder / GENERATION_CONFIG_FILE).is_file():
        return None
    try:
        return GenerationConfig.from_dict(read_json_object(folder / GENERATION_CONFIG_FILE))
    except BackboneError:
        raise
    except Exception as error:  # its values are checked there, each in its own way
        raise BackboneError(
            f"A model's {GENERATION_CONFIG_FILE} must be one of transformers, but that of '{folder}' is not: "
            f"{first_line(error)}; get it again, or remove it."
        ) from error


def _downloaded_folder(path: str, revision: str) -> Path:
    """The local copy of a hub model, with its weights.

    Raises:
        BackboneError: When it cannot be reached, or has no safetensors weights.
    """
    options: dict[str, Any] = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    try:
        whole = cached_file(path, WEIGHTS_FILE, **options)
        if whole is None and (index := cached_file(path, INDEX_FILE, **options)) is not None:
            get_checkpoint_shard_files(path, index, revision=revision)
            whole = index
        cached_file(path, GENERATION_CONFIG_FILE, **options)
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"A backbone must be an embedded name, a local folder or a hub name that can be reached with safetensors "
            f"weights, but '{path}' could not be loaded: {first_line(error)}"
        ) from error
    if whole is None:
        raise BackboneError(
            f"A backbone must have its weights as {WEIGHTS_FILE}, or as the files that {INDEX_FILE} names, but "
            f"'{path}' on the hub has neither; convert them with transformers' save_pretrained."
        )
    return Path(whole).parent
