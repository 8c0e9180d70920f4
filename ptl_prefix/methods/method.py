"""The interface of an adaptation method.

In: a backbone, once, in `attach`; the inputs of a forward pass, in `condition`. Out: conditioned inputs, and trainable
parameters. A method acts on the backbone in these two functions only. A new method is one file here and one YAML in
`conf/method/`; the contract tests find both.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.errors import BackboneError, RunError
from ptl_prefix.methods.start_inputs import StartInputs

Resource = Literal["attention slots", "encoder input", "weights", "sublayer outputs"]
"""A part of a backbone that only one method at a time can use."""


class Method(nn.Module, ABC):
    """A way of adapting a frozen backbone.

    Args:
        name: Name of the method in run folders and records.
        default_lr: Learning rate of a run that sets none.
        match_parameters: Number of stored parameters to come closest to, by choosing the method's size (a length, rank
            or width) instead of the configured one; `None` keeps the configured size.
    """

    kind: ClassVar[str]
    """Name of the file and config that define this method; bundles store it."""
    can_be_merged: ClassVar[bool] = False
    """Whether the method can be merged into the backbone's weights; see `merged`."""
    is_exclusive: ClassVar[bool] = False
    """Whether the method acts in every forward pass while attached, conditioned or not, so that no other bundle can
    share its backbone."""
    mixes_rows: ClassVar[bool] = False
    """Whether all that the method does is keys and values before the text, or rows at an encoder's input: the rows of a
    forward pass can then belong to different bundles."""
    trains_keys_and_values: bool = False
    """Whether keys and values are trained directly, whose learning rate follows from the target tokens of a step where
    a teacher is matched."""
    base_mode: Literal["eval", "train"] = "eval"
    """Mode of the backbone while the method is trained, if a run sets none: `train` if the method's paper trains with
    the backbone's dropout."""

    def __init__(self, *, name: str, default_lr: float, match_parameters: int | None = None) -> None:
        super().__init__()
        self.name = name
        self.default_lr = default_lr
        self.match_parameters = match_parameters
        self.notes: list[str] = []
        """Remarks on the initialisation for the user, set by `attach`; each continues a sentence about the method."""
        self._backbone: Backbone | None = None
        self._size_is_chosen = False

    @property
    def backbone(self) -> Backbone:
        """The backbone that the method is attached to."""
        if self._backbone is None:
            raise BackboneError(
                f"A method must be attached before it is used, but '{self.name}' is not; call attach(backbone)."
            )
        return self._backbone

    @property
    def is_attached(self) -> bool:
        """Whether the method is attached to a backbone."""
        return self._backbone is not None

    def provide_start_inputs(self, inputs: StartInputs) -> None:
        """Give the method what it may need of the task for its initialisation.

        It is called before `incompatibilities`, and again with training rows before `attach`.
        """

    def skip_start(self) -> None:
        """Leave out an initialisation that would be overwritten: a checkpoint is loaded right after `attach`."""

    def incompatibilities(self, backbone: Backbone) -> list[str]:
        """Settings that this backbone does not support, one sentence each; its shape alone is read."""
        return []

    def quantization_incompatibilities(self, backbone: Backbone, *, use: str) -> list[str]:
        """A problem if the weights are quantised, for a method that reads or changes their values.

        Args:
            backbone: The backbone.
            use: What the method does with the weights, as a verb phrase.
        """
        if backbone.quantization is None:
            return []
        return [
            f"`backbone.quantization` must be null for a method that uses the values of the weights, but is "
            f"{backbone.quantization} and '{self.name}' {use}; choose prefix-tuning, prompt tuning or LoRA, or no "
            "quantisation."
        ]

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """The parts of the backbone that no other method can use at the same time; by default, all."""
        return frozenset(get_args(Resource))

    def direct_weight_access(self, backbone: Backbone) -> str | None:
        """What the method does with the weights besides whole forward passes, as a verb phrase; `None` for nothing.

        Weights that are sharded over ranks are only available in whole forward passes.
        """
        return None

    @property
    def size_setting(self) -> str | None:
        """The setting that decides the number of stored parameters; `None` if there is none."""
        return None

    @property
    def smallest_size(self) -> int:
        """The smallest value of `size_setting`."""
        return 1

    @property
    def has_open_settings(self) -> bool:
        """Whether a setting follows from the backbone, and is not chosen yet: a size, with `match_parameters`."""
        return self.match_parameters is not None and not self._size_is_chosen

    def choose_settings(self, backbone: Backbone) -> dict[str, Any]:
        """Choose the settings that follow from the backbone.

        That is the size whose number of stored parameters comes closest to `match_parameters`.

        Args:
            backbone: The backbone; its shape alone is read.

        Returns:
            The chosen settings; empty if none was open.

        Raises:
            ValueError: When the method has no size to choose.
        """
        if self.match_parameters is None or self._size_is_chosen:
            return {}
        if self.size_setting is None:
            raise ValueError(
                f"`method.match_parameters` must be null for a method without a size setting, but is "
                f"{self.match_parameters} and '{self.name}' has none."
            )
        # The number of stored parameters is linear in the size.
        least = self.smallest_size
        at_least, one_more = (self._num_stored_at(size, backbone) for size in (least, least + 1))
        step = one_more - at_least
        size = least + max(0, round((self.match_parameters - at_least) / step))
        setattr(self, self.size_setting, size)
        self._size_is_chosen = True
        num_stored = at_least + (size - least) * step
        self.notes.append(
            f"has {self.size_setting} {size}: its {num_stored:,} stored parameters come closest to the "
            f"{self.match_parameters:,} of match_parameters"
        )
        return {self.size_setting: size}

    def _num_stored_at(self, size: int, backbone: Backbone) -> int:
        trial = copy.deepcopy(self)
        setattr(trial, str(self.size_setting), size)
        trial.skip_start()
        with torch.random.fork_rng():  # the initialisation of the method itself must not depend on this
            trial._attach(backbone)
        trial._backbone = backbone
        try:
            return trial.num_stored
        finally:
            trial.detach()

    def attach(self, backbone: Backbone) -> Self:
        """Attach the method to a backbone, and initialise its parameters from torch's random state if it has none.

        Raises:
            BackboneError: When the method is attached already.
            ValueError: When there are `incompatibilities`.
        """
        if self.is_attached:
            raise BackboneError(
                f"A method is attached to one backbone at a time, but '{self.name}' already is; detach it first."
            )
        self.choose_settings(backbone)
        if problems := self.incompatibilities(backbone):
            raise ValueError(" ".join(problems))
        self._attach(backbone)
        self._backbone = backbone
        return self

    def detach(self) -> None:
        """Restore the backbone as it was before `attach`. The method keeps its trained parameters."""
        self._detach()
        self._backbone = None

    @abstractmethod
    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Prepare one forward pass; called once per batch, before the backbone runs."""

    @abstractmethod
    def neutralize(self) -> None:
        """Disable the method's effect: the backbone computes as without it, at the method's text positions."""

    @property
    @abstractmethod
    def num_stored(self) -> int:
        """Number of parameters in an exported bundle."""

    def reserved_positions(self, backbone: Backbone) -> int:
        """Number of positions of the backbone's context window that the method occupies; known before `attach`."""
        return 0

    @property
    def needs_one_text_per_row(self) -> bool:
        """Whether the method acts at a column of each row, so that a row holds one text; known before `attach`."""
        return False

    def first_layer(self, backbone: Backbone) -> int:
        """Index of the first layer that the method changes; layers below it compute the same in every step.

        It is known before `attach`. 0 is the lowest layer: that, or what it reads, is changed, as by a method that acts
        on the embeddings. An encoder-decoder has 0.
        """
        return 0

    @property
    def has_fixed_positions(self) -> bool:
        """Whether a text has the same positions in every step of training; known before `attach`."""
        return True

    @property
    def position_offset(self) -> int:
        """Number of positions that the method occupies in the backbone it is attached to."""
        return self.reserved_positions(self.backbone)

    @property
    def position_law(self) -> str:
        """Where text positions start: `unshifted` at 0, `shifted` after the positions that the method occupies."""
        return "shifted" if self.position_offset else "unshifted"

    @abstractmethod
    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Settings and tensors from which `restore` builds an equal method."""

    def merged(self) -> AbstractContextManager[None]:
        """Inside, the method is merged into the backbone's weights.

        Raises:
            ValueError: When the method is not a change of weights.
        """
        raise ValueError(
            f"A method must change the backbone's weights to be merged into them, but '{self.name}' does not; "
            "export it as a bundle."
        )

    @property
    def is_whole_model(self) -> bool:
        """Whether the stored parameters are all of the backbone's, so that they can be exported as a model."""
        return False

    @classmethod
    @abstractmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """Build the method of a bundle, and attach it to `backbone`."""

    @abstractmethod
    def _attach(self, backbone: Backbone) -> None: ...

    @abstractmethod
    def _detach(self) -> None: ...

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """The parameters that are trained, by name; nothing else gets a gradient."""
        return dict(self.named_parameters())

    def lr_groups(self) -> Iterable[tuple[float, Iterable[nn.Parameter]]]:
        """Groups of trainable parameters, each with its learning rate for a run that sets none."""
        return [(self.default_lr, self.trainable_parameters().values())]

    def checkpoint_tensors(self) -> Mapping[str, Tensor]:
        """What a checkpoint holds of the method: the trainable parameters, and what its start has fixed for good."""
        return self.trainable_parameters()

    def load_trainable_parameters(self, state: Mapping[str, Tensor]) -> None:
        """Set the values of the trainable parameters, and of whatever else `checkpoint_tensors` has.

        Args:
            state: Tensors by their names.

        Raises:
            RunError: When names or shapes differ from those of this method as configured.
        """
        own = self.checkpoint_tensors()
        if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in state.items()}:
            raise RunError(
                f"A checkpoint must have the trainable parameters of '{self.name}' as configured, but their names or "
                "shapes differ; use the run's own config."
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    @property
    def num_trainable(self) -> int:
        """Number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.trainable_parameters().values())

    @torch.no_grad()
    def tracked_norms(self) -> dict[str, float]:
        """Norms to log during training, by name: `trained` is the L2 norm of all trainable parameters together."""
        trainable = [parameter.detach().float() for parameter in self.trainable_parameters().values()]
        return {"trained": float(torch.stack(torch._foreach_norm(trainable)).norm())}
