"""From settings to a backbone: where it comes from and how it is held in memory.

In: the settings of `conf/backbone/`. Out: `problems()` before anything is loaded, the shape alone for a dry run, and
the loaded `Backbone`.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from ptl_prefix.artifacts.manifest import Quantization
from ptl_prefix.backbones.attention_sites import has_native_bfloat16
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.choose_source import pretrained_files
from ptl_prefix.backbones.model_folder import system_errors
from ptl_prefix.backbones.model_loading import build_shape, without_progress_bar
from ptl_prefix.backbones.quantization import library_problems, model_problems
from ptl_prefix.backbones.source import PretrainedFiles, ShapeSource
from ptl_prefix.backbones.tokenizer_checks import used_id_problem
from ptl_prefix.errors import BackboneError
from ptl_prefix.settings import settings_from

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class BackboneSpec:
    """The settings of a backbone.

    Args:
        name: Name of the backbone in run folders and records.
        path: Name of an embedded backbone, local folder, name on the Hugging Face hub, GGUF file, or
            `package:<distribution>/<file>` for a GGUF file of an installed package.
        revision: Revision on the hub; `None` is the newest one. A folder or file has none.
        dtype: Dtype of weights and activations; `auto` is bfloat16 if the processor multiplies it natively, else
            float32.
        quantization: Quantisation of the layers' weight matrices; `None` keeps them in `dtype`.
        base_mode: Mode of the frozen backbone while a method is trained: `eval` (no dropout) or `train`; `None` is the
            mode of the method's paper, which a plan fills in, and `eval` without a plan.
        gradient_checkpointing: Whether activations are recomputed in the backward pass: less memory, more time.
        device: Device of the backbone; `auto` is a GPU if there is one, else the CPU.
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
        files = pretrained_files(path, revision)
        self._set_source(files, weights=files)
        self._set_holding(name, dtype, quantization, base_mode, gradient_checkpointing, device)

    def _set_source(self, shape: ShapeSource, *, weights: PretrainedFiles | None) -> None:
        """Set where the shape comes from, and the weights; `None` if there are no weights."""
        self._shape = shape
        self._weights = weights

    def _set_holding(
        self,
        name: str,
        dtype: str,
        quantization: Quantization | None,
        base_mode: Literal["eval", "train"] | None,
        gradient_checkpointing: bool,
        device: str,
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.quantization = quantization
        self.base_mode = base_mode or "eval"
        self.gradient_checkpointing = gradient_checkpointing
        self.device = device

    def problems(self) -> list[str]:
        """Why the shape cannot be loaded, found without reading weights; a hub name is checked when it is loaded."""
        if (problems := self._shape.problems()) or not self._shape.is_local:
            return problems
        return model_problems(self.quantization, self._shape.config, self.torch_device)

    def weight_problems(self) -> list[str]:
        """Why the weights cannot be loaded, although the shape can; a dry run needs no weights."""
        if self._weights is None:
            return [
                f"`backbone` must have weights, but {self.name} is an architecture without weights, for dry_run=true; "
                "with weights in a folder or on the hub: backbone=<folder or hub name>."
            ]
        return library_problems(self.quantization) if self.quantization else []

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user of a dry run; each continues a sentence that starts with the backbone's name."""
        return self._shape.notes

    def load(self, *, on: torch.device | None = None) -> Backbone:
        """Load the backbone with its weights.

        Args:
            on: Device for the weights instead of the one configured; `None` uses the configured one.

        Raises:
            BackboneError: When there are `problems` or `weight_problems`, or the files cannot be read.
        """
        if problems := [*self.problems(), *self.weight_problems()]:
            raise BackboneError(" ".join(problems))
        assert self._weights is not None  # else a weight problem
        self._check_model()
        model = self._weights.model(
            quantization=self.quantization, dtype=self.torch_dtype, device=on or self.torch_device
        )
        return self._backbone(model, gradient_checkpointing=self.gradient_checkpointing)

    def load_shape(self, *, gradient_checkpointing: bool | None = None) -> Backbone:
        """Load the backbone without weights, on the meta device; only config and tokenizer are read.

        Args:
            gradient_checkpointing: Value to use instead of the setting; `None` uses the setting.

        Raises:
            BackboneError: When config or tokenizer cannot be read, or the model cannot be quantised as configured.
        """
        self._check_model()
        model = build_shape(self._shape.config, of=self._shape.path, dtype=self.torch_dtype)
        recompute = self.gradient_checkpointing if gradient_checkpointing is None else gradient_checkpointing
        return self._backbone(model, gradient_checkpointing=recompute)

    @property
    def torch_device(self) -> torch.device:
        """The device that `auto` stands for on this machine, or the one configured."""
        if self.device != "auto":
            return torch.device(self.device)
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype that `auto` stands for on this machine, or the one configured."""
        if self.dtype == "auto":
            return torch.bfloat16 if has_native_bfloat16(self.torch_device) else torch.float32
        return _DTYPES[self.dtype]

    def _check_model(self) -> None:
        if problems := model_problems(self.quantization, self._shape.config, self.torch_device):
            raise BackboneError(" ".join(problems))

    def _backbone(self, model: PreTrainedModel, *, gradient_checkpointing: bool) -> Backbone:
        tokenizer = self._shape.tokenizer()
        if problem := used_id_problem(tokenizer, self._shape.config, of=self._shape.path):
            raise BackboneError(problem)
        return Backbone(
            model=model,
            tokenizer=tokenizer,
            name=self.name,
            path=self._shape.path,
            base_mode=self.base_mode,
            gradient_checkpointing=gradient_checkpointing,
            quantization=self.quantization,
            fingerprints=None if self._weights is None else self._weights.fingerprints,
            first_fingerprints=None if self._weights is None else self._weights.first_fingerprints,
        )


def load_backbone(path: str = "tiny_gpt2", **settings: Any) -> Backbone:
    """Load a backbone with its weights.

    Args:
        path: Name of an embedded backbone, local folder, name on the Hugging Face hub, GGUF file, or
            `package:<distribution>/<file>` for a GGUF file of an installed package.
        settings: Other settings of `BackboneSpec`; the defaults are those of `conf/backbone/tiny_gpt2.yaml`.

    Raises:
        BackboneError: When it cannot be loaded, or its family is not supported.
        ValueError: When a setting has a wrong type or value.
    """
    return BackboneSpec(path=path, **{"name": Path(path).name, **settings}).load()


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """Write the model, with its current weights, and the tokenizer, for transformers' `from_pretrained` to load.

    Raises:
        OSError: If the disk does not take a file.
    """
    with without_progress_bar(), system_errors(folder):
        backbone.model.save_pretrained(folder)
        backbone.tokenizer.save_pretrained(folder)
