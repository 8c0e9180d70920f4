"""What a resumed run may have otherwise than it began: accepted changes of its inputs, and more steps.

In: the settings that are given beside `resume`. Out: the config with which the run is resumed, or a `ConfigError`.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.errors import ConfigError
from ptl_prefix.training.start import Start, find_start


@dataclass(frozen=True, kw_only=True)
class ResumeChanges:
    """The settings beside `resume`.

    Args:
        anyway: Kinds of inputs that may differ, as in `resume_anyway`.
        max_steps: New number of steps; `None` keeps the run's.
    """

    anyway: tuple[str, ...] = ()
    max_steps: int | None = None

    @classmethod
    def given(cls, config: Mapping[str, Any], keys: Collection[str]) -> Self:
        """The changes of a command line.

        Args:
            config: Checked config.
            keys: Keys that were given.
        """
        anyway = config.get("resume_anyway") or ()
        return cls(
            anyway=(anyway,) if isinstance(anyway, str) else tuple(anyway),
            max_steps=int(config["trainer"]["max_steps"]) if "trainer.max_steps" in keys else None,
        )

    def as_text(self) -> str:
        """The changes as one argument for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The changes from the argument of `as_text`."""
        values = json.loads(text)
        return cls(anyway=tuple(values["anyway"]), max_steps=values["max_steps"])

    def prolongs(self, config: Mapping[str, Any]) -> bool:
        """Whether the run has another number of steps by its config."""
        return self.max_steps not in (None, config["trainer"].get("max_steps"))

    def apply(self, config: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
        """The config with the new number of steps.

        Args:
            config: The run's config.
            folder: Run folder.

        Raises:
            ConfigError: If the schedule or the steps that are done do not allow it.
            RunError: If the last checkpoint is damaged.
        """
        if not self.prolongs(config):
            return config
        start = find_start(folder, resume=True, anyway=self.anyway)
        if problem := self._problem(config, start):
            raise ConfigError([problem])
        return {**config, "trainer": {**config["trainer"], "max_steps": self.max_steps}}

    def _problem(self, config: Mapping[str, Any], start: Start) -> str | None:
        """Why a run cannot have the new number of steps."""
        law, done = "`trainer.max_steps` beside `resume`", start.step
        assert self.max_steps is not None
        if config["trainer"].get("max_epochs") not in (None, -1):
            return (
                f"{law} needs a run that steps alone end, but this one has `trainer.max_epochs` "
                f"{config['trainer']['max_epochs']}; start a new run."
            )
        if done is None:
            record = start.folder.record
            if not record.exists() or read_record(record).status != "finished":
                return None
            return f"{law} needs the run's last checkpoint, but there is no {start.folder.last}; start a new run."
        if start.stopped_early:
            return (
                f"{law} needs a run that its last step ended, but early stopping ended this one after {done} steps "
                "(`optimizer.early_stopping_patience`); start a new run."
            )
        if self.max_steps < done:
            return f"{law} must be at least the {done} steps that the run has made, but is {self.max_steps}."
        if build(config["optimizer"]).depends_on_length:
            return (
                f"{law} needs a learning rate that does not depend on the number of steps, but "
                f"`optimizer.schedule` is {config['optimizer']['schedule']}, which was laid out for "
                f"{config['trainer']['max_steps']} steps; start a new run of {self.max_steps} steps, or with "
                "optimizer.schedule=constant, which can be prolonged."
            )
        return None
