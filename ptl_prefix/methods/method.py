"""A way of adapting a frozen backbone: two verbs and a trained state.

A method touches the backbone in two places only: once when it is attached, and once per forward when it conditions the
inputs. Whoever adds one writes a file here and a YAML in `conf/method/`; the contract tests find both by glob.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from ptl_prefix.artifacts.bundle import Bundle
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.errors import BackboneError, RunError

Resource = Literal["attention slots", "encoder input", "weights", "sublayer outputs"]
"""A part of a backbone that one method at a time can have."""


class Method(nn.Module, ABC):
    """A way of adapting.

    Args:
        name: What runs and records call it.
        default_lr: The learning rate where a run chooses none.
        match_parameters: Numbers that a bundle should hold: the size (a length, a rank, a width) is chosen that comes
            closest, in place of the one that is configured; `None` keeps that.
    """

    kind: ClassVar[str]
    """The file and config that define this method; a bundle names it."""
    can_be_merged: ClassVar[bool] = False
    """Whether what it does can be written into the backbone's own weights, see `merged`."""
    is_exclusive: ClassVar[bool] = False
    """Whether it acts in every forward pass while attached, conditioned by it or not, so that no other adaptation can
    share its backbone."""
    base_mode: Literal["eval", "train"] = "eval"
    """The backbone's mode while this trains, where a run chooses none: `train` if its paper has the backbone's own
    dropout on."""

    def __init__(self, *, name: str, default_lr: float, match_parameters: int | None = None) -> None:
        super().__init__()
        self.name = name
        self.default_lr = default_lr
        self.match_parameters = match_parameters
        self.notes: list[str] = []
        """What a person should know of how it started, a sentence each; filled by `attach`."""
        self._backbone: Backbone | None = None
        self._has_size = False

    @property
    def backbone(self) -> Backbone:
        """The backbone this is attached to."""
        if self._backbone is None:
            raise BackboneError(
                f"A method must be attached before it is used, but '{self.name}' is not; call attach(backbone)."
            )
        return self._backbone

    @property
    def is_attached(self) -> bool:
        """Whether `attach` was called, and `detach` was not."""
        return self._backbone is not None

    def provide_labels(self, label_set: Callable[[], Sequence[str] | None]) -> None:
        """Hear, before `misfits`, how to read what a task's targets may be (`None`: any text), for a start there."""

    def problems(self, backbone: Backbone) -> list[str]:
        """What in these settings does not fit a backbone of this shape; asked before any weights load."""
        return []

    def quantization_problems(self, backbone: Backbone, *, does: str) -> list[str]:
        """For `misfits` of a method that cannot do without the numbers of weights, if they are not at hand.

        Args:
            backbone: Its weights may be quantised.
            does: What it does with them.
        """
        if backbone.quantization is None:
            return []
        return [
            f"`backbone.quantization` must be null where a method needs the weights themselves, but is "
            f"{backbone.quantization} and '{self.name}' {does}; choose a prefix, a prompt or LoRA, or no quantization."
        ]

    def exclusive_resources(self, backbone: Backbone) -> frozenset[Resource]:
        """What it has to itself while at work: methods work together if they share nothing. Unless it says: all."""
        return frozenset(get_args(Resource))

    def direct_weight_access(self, backbone: Backbone) -> str | None:
        """What it does with the backbone's weights besides whole forward passes; `None` if nothing.

        Weights that are divided among ranks are there for whole forward passes alone.
        """
        return None

    @property
    def size_setting(self) -> str | None:
        """The setting that says how many numbers are stored; `None` if there is no such choice."""
        return None

    @property
    def smallest_size(self) -> int:
        """The least that setting can be."""
        return 1

    @property
    def needs_size(self) -> bool:
        """Whether a size is still to be chosen."""
        return self.match_parameters is not None and not self._has_size

    def choose_size(self, backbone: Backbone) -> dict[str, Any]:
        """Choose the size that `match_parameters` asks for; the numbers stored grow evenly with it.

        Args:
            backbone: Its shapes alone are read.

        Returns: The setting that was chosen; nothing where a budget was not asked for.

        Raises:
            ValueError: When the method has no size to choose.
        """
        if self.match_parameters is None or self._has_size:  # as in `needs_size`, which says less to a type checker
            return {}
        if self.size_setting is None:
            raise ValueError(
                f"`method.match_parameters` must be null where there is no size to choose, but is "
                f"{self.match_parameters} and '{self.name}' has none."
            )
        least = self.smallest_size
        at_least, one_more = (self._num_stored_at(size, backbone) for size in (least, least + 1))
        step = one_more - at_least
        size = least + max(0, round((self.match_parameters - at_least) / step))
        setattr(self, self.size_setting, size)
        self._has_size = True
        numbers = at_least + (size - least) * step
        self.notes.append(
            f"has {self.size_setting} {size}: the {numbers:,} numbers that it stores come closest to the "
            f"{self.match_parameters:,} of match_parameters"
        )
        return {self.size_setting: size}

    def _num_stored_at(self, size: int, backbone: Backbone) -> int:
        trial = copy.deepcopy(self)
        setattr(trial, str(self.size_setting), size)
        with torch.random.fork_rng():  # what the method itself will draw does not depend on its trials
            trial._attach(backbone)
        trial._backbone = backbone
        try:
            return trial.num_stored
        finally:
            trial.detach()

    def attach(self, backbone: Backbone) -> Self:
        """Make this method's parameters for `backbone`, from torch's random state, and take what it needs there."""
        if self.is_attached:
            raise BackboneError(
                f"A method is attached to one backbone at a time, but '{self.name}' already is; detach it first."
            )
        self.choose_size(backbone)
        if misfits := self.problems(backbone):
            raise ValueError(" ".join(misfits))
        self._attach(backbone)
        self._backbone = backbone
        return self

    def detach(self) -> None:
        """Give the backbone back as it was before `attach`. The trained state stays with the method."""
        self._detach()
        self._backbone = None

    @abstractmethod
    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Prepare one forward pass: called once per batch, before the backbone runs."""

    @abstractmethod
    def neutralize(self) -> None:
        """Make the method's effect nothing: the backbone computes as if bare, at the positions the method gives."""

    @property
    @abstractmethod
    def num_stored(self) -> int:
        """Numbers that an exported bundle holds."""

    def reserved_positions(self, backbone: Backbone) -> int:
        """Positions that the method takes from those that `backbone` has; known before it is attached."""
        return 0

    @property
    def position_offset(self) -> int:
        """Positions that the method takes from those its backbone has."""
        return self.reserved_positions(self.backbone)

    @property
    def position_law(self) -> str:
        """Where the text's positions start: `unshifted`, or `shifted` by what the method takes."""
        return "shifted" if self.position_offset else "unshifted"

    @abstractmethod
    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The settings and the tensors from which `restore` builds a method that computes the same."""

    def merged(self) -> AbstractContextManager[None]:
        """Inside, the backbone's own weights compute what the method does, and nothing else of it is left.

        Raises:
            ValueError: When the method is no change of weights.
        """
        raise ValueError(
            f"A method must be a change of the backbone's weights to be merged into them, but '{self.name}' is none; "
            "export it as a bundle."
        )

    @property
    def is_whole_model(self) -> bool:
        """Whether what is stored is as much as the backbone, so that it may as well be a model of its own."""
        return False

    @classmethod
    @abstractmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """The method that a bundle holds, attached to `backbone`."""

    @abstractmethod
    def _attach(self, backbone: Backbone) -> None: ...

    @abstractmethod
    def _detach(self) -> None: ...

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """What training changes, by name; nothing else has a gradient."""
        return dict(self.named_parameters())

    def lr_groups(self) -> Iterable[tuple[float, Iterable[nn.Parameter]]]:
        """The trained parameters with the learning rate of each, where a run chooses none."""
        return [(self.default_lr, self.trainable_parameters().values())]

    def load_trainable_parameters(self, state: Mapping[str, Tensor]) -> None:
        """Put numbers into the trained parameters.

        Raises:
            RunError: When their names or shapes are not those of this method as it is configured.
        """
        own = self.trainable_parameters()
        if {n: p.shape for n, p in own.items()} != {n: t.shape for n, t in state.items()}:
            raise RunError(
                f"A checkpoint must hold the trained parameters of '{self.name}' as it is configured, but this one "
                "holds others; use the run's own config."
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    @property
    def num_trainable(self) -> int:
        """Numbers that training changes."""
        return sum(parameter.numel() for parameter in self.trainable_parameters().values())


class NoAdaptation(Method):
    """The bare backbone, spoken of as a method: what every method is compared with."""

    kind = "none"

    def __init__(self) -> None:
        super().__init__(name="none", default_lr=0.0)

    def condition(self, inputs: ModelInputs) -> ModelInputs:
        """Nothing but positions."""
        return inputs.with_positions()

    def neutralize(self) -> None:
        """It already is."""

    @property
    def num_stored(self) -> int:
        """Nothing is stored."""
        return 0

    def export(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """There is nothing to export."""
        raise ValueError("The bare backbone has nothing to export.")

    @classmethod
    def restore(cls, bundle: Bundle, backbone: Backbone) -> Self:
        """There is nothing to restore."""
        raise ValueError("The bare backbone is in no bundle.")

    def _attach(self, backbone: Backbone) -> None: ...

    def _detach(self) -> None: ...
