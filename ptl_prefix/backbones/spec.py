"""From a name to a backbone: an embedded one, a local folder, or a hub name.

In: what `conf/backbone/` says. Out: `problems()` before anything loads, a `sketch()` of shapes for a dry run, and the
loaded `Backbone`. Weights come from safetensors files only, and no code that comes with a model is ever run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ptl_prefix.artifacts.fingerprint import fingerprint_files, fingerprint_tensors
from ptl_prefix.backbones.attention_sites import FAMILIES, family_of, has_native_bfloat16
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.quantization import (
    Quantization,
    for_training,
    library_problems,
    loading_options,
    model_problems,
)
from ptl_prefix.errors import BackboneError
from ptl_prefix.settings import settings_from

EMBEDDED = Path(__file__).parent / "embedded"
"""The backbones that are shipped inside the package, one folder each."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json")


class BackboneSpec:
    """Which backbone, and how it is held.

    Args:
        name: What runs and records call it.
        path: An embedded backbone's name, a local folder, or a hub name.
        revision: A hub revision; `None` for the newest.
        dtype: What the backbone computes in; `auto` is bfloat16 where the processor multiplies it natively.
        quantization: How the layers' matrices are held, to take less memory; `None`: in `dtype`.
        base_mode: `eval`: no dropout inside the frozen backbone | `train`; `None`: what the method's paper has, which a
            plan fills in, and `eval` where there is none.
        gradient_checkpointing: Whether activations are computed again in the backward pass: less memory, more time.
        device: Where it is put; `auto` takes a GPU if there is one.
    """

    @settings_from("backbone/tiny_gpt2")
    def __init__(
        self,
        *,
        name: str,
        path: str,
        revision: str | None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"],
        quantization: Quantization | None,
        base_mode: Literal["eval", "train"] | None,
        gradient_checkpointing: bool,
        device: Literal["auto", "cpu", "cuda", "mps"],
    ) -> None:
        self.name = name
        self.path = path
        self.revision = revision
        self.dtype = dtype
        self.quantization = quantization
        self.base_mode = base_mode or "eval"
        self.gradient_checkpointing = gradient_checkpointing
        self.device = device

    @property
    def folder(self) -> Path | None:
        """The local folder, if this is one; a hub name has none."""
        embedded = EMBEDDED / self.path
        if "/" not in self.path and embedded.is_dir():
            return embedded
        local = Path(self.path).expanduser()
        return local if local.exists() or self.path.startswith((".", "/", "~")) else None

    def problems(self) -> list[str]:
        """What would stop `load`, found without reading a weight; a hub name is asked only when it loads."""
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
            self._check_family()
        except BackboneError as error:
            return [f"`backbone.path`: {error}"]
        return model_problems(self.quantization, self._config, self.torch_device)

    def weight_problems(self) -> list[str]:
        """Why weights could not be loaded, where shapes can be known; a dry run needs none."""
        return library_problems(self.quantization) if self.quantization else []

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of a dry run with it; each goes on after its name."""
        return ()

    def load(self, *, on: torch.device | None = None) -> Backbone:
        """The backbone with its weights.

        Args:
            on: Where it is put for now; `None` is its device.

        Raises:
            BackboneError: When the folder or the hub's copy cannot be used.
        """
        if problems := [*self.problems(), *self.weight_problems()]:
            raise BackboneError(" ".join(problems))
        try:
            self._check_model()
            model = self._model_with_weights(on or self.torch_device)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise BackboneError(
                f"A backbone must be an embedded name, a local folder or a hub name that can be reached with "
                f"safetensors weights, but '{self.path}' could not be loaded: {error}"
            ) from error
        return self._backbone(model)

    def load_shape(self, *, gradient_checkpointing: bool | None = None) -> Backbone:
        """The backbone's shapes on the meta device: nothing is read but its config and tokenizer.

        Args:
            gradient_checkpointing: In place of the setting.
        """
        self._check_model()
        with torch.device("meta"):
            model = self._model_class.from_config(self._config, dtype=self.torch_dtype)
        return self._backbone(model, gradient_checkpointing)

    @property
    def torch_device(self) -> torch.device:
        """The device that `auto` means here."""
        if self.device != "auto":
            return torch.device(self.device)
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype that `auto` means here."""
        if self.dtype == "auto":
            return torch.bfloat16 if has_native_bfloat16(self.torch_device) else torch.float32
        return _DTYPES[self.dtype]

    @cached_property
    def _config(self) -> Any:
        return AutoConfig.from_pretrained(self._source, revision=self._hub_revision, trust_remote_code=False)

    @property
    def _model_class(self) -> Any:
        return AutoModelForSeq2SeqLM if self._config.is_encoder_decoder else AutoModelForCausalLM

    @property
    def _source(self) -> str:
        return self.path if self.folder is None else str(self.folder)

    @property
    def _hub_revision(self) -> str:
        return self.revision or "main"

    def _model_with_weights(self, device: torch.device) -> Any:
        options = loading_options(self.quantization, device=device, dtype=self.torch_dtype) if self.quantization else {}
        with _without_progress_bar():
            loaded: Any = self._model_class.from_pretrained(
                self._source,
                revision=self._hub_revision,
                dtype=self.torch_dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
        model, report = loaded
        if missing := sorted(report["missing_keys"]):
            # transformers would only warn, and draw them at random.
            raise BackboneError(
                f"A backbone must have all its weights, but '{self.path}' lacks {len(missing)} tensors, {missing[0]} "
                "among them; get the whole model again."
            )
        if self.quantization is None:
            return model.to(device)
        for_training(model, self.quantization)
        return model

    def _check_model(self) -> None:
        self._check_family()
        if problems := model_problems(self.quantization, self._config, self.torch_device):
            raise BackboneError(" ".join(problems))

    def _check_family(self) -> None:
        try:
            family_of(self._config)
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

    def _backbone(self, model: Any, gradient_checkpointing: bool | None = None) -> Backbone:
        recomputes = self.gradient_checkpointing if gradient_checkpointing is None else gradient_checkpointing
        return Backbone(
            model=model,
            tokenizer=self._tokenizer(),
            name=self.name,
            path=self.path,
            base_mode=self.base_mode,
            gradient_checkpointing=recomputes,
            quantization=self.quantization,
            fingerprints=self._fingerprints,
        )

    def _tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            self._source, revision=self._hub_revision, trust_remote_code=False
        )
        if tokenizer.eos_token_id is None:
            raise BackboneError(
                f"A backbone's tokenizer must have an end-of-text token, but that of '{self.path}' has none."
            )
        return tokenizer

    def _fingerprints(self) -> tuple[str, str]:
        folder = self.folder or _snapshot(self.path, self._hub_revision)
        weights = fingerprint_tensors(_stored_tensors(folder))
        return weights, fingerprint_files([folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()])


def load_backbone(path: str = "tiny_gpt2", **settings: Any) -> Backbone:
    """Load a backbone by an embedded name, a local folder, or a hub name.

    Args:
        path: Where it is.
        settings: The other settings of `BackboneSpec`; defaults are those of `conf/backbone/tiny_gpt2.yaml`.

    Raises:
        BackboneError: When it cannot carry a prefix or cannot be loaded.
    """
    return BackboneSpec(path=path, **{"name": Path(path).name, **settings}).load()


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """Write model and tokenizer as they are now, for transformers' `from_pretrained` to open."""
    with _without_progress_bar():
        backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Weights take a moment; a bar that flashes by tells nobody anything."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()


def _stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors as they lie on disk: independent of sharding, and of the dtype they are loaded in."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                yield name, tensors.get_tensor(name)


def _snapshot(path: str, revision: str) -> Path:
    """The local copy of a hub model that has been loaded."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, revision=revision, local_files_only=True))
