"""The loggers of a run besides its run folder, as configured.

In: settings. Out: sinks that are not open yet, and problems that can be detected before a run: a missing library, or an
unknown value of `WANDB_MODE`.
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge, Gt, MinLen

from ptl_prefix.settings import settings_from
from ptl_prefix.tracking.csv_sink import CsvSink
from ptl_prefix.tracking.events import EventSink
from ptl_prefix.tracking.tensorboard_sink import TensorBoardSink
from ptl_prefix.tracking.wandb_mode import WANDB_MODES, WandbMode, resolve_mode
from ptl_prefix.tracking.wandb_names import wandb_name_problems
from ptl_prefix.tracking.wandb_sink import WandbSink


class Tracking:
    """The additional loggers of a run.

    Args:
        wandb: W&B mode: `auto`, `online`, `offline` or `none`. `auto` is online if there is an API key and the server
            responds, else offline.
        project: W&B project.
        entity: W&B user or team; `None` uses the default entity of the API key.
        group: W&B group of the run; `None` for no group.
        name: W&B name of the run, which a config may make of others, as in `${method.name}-${seed}`; `None` is
            `<method>-<task>-<backbone>-<seed>`.
        job_type: W&B job type of the run.
        tags: W&B tags of the run.
        finish_timeout_s: Seconds that the end of a run waits for uploads to W&B.
        num_samples: Number of validation sources that are decoded and logged at every validation.
        csv: Whether to write `metrics.csv`.
        tensorboard: Whether to write TensorBoard event files.
    """

    @settings_from("tracking/auto")
    def __init__(
        self,
        *,
        wandb: WandbMode,
        project: Annotated[str, MinLen(1)],
        entity: str | None,
        group: str | None,
        job_type: str,
        tags: Sequence[str],
        finish_timeout_s: Annotated[float, Gt(0)],
        num_samples: Annotated[int, Ge(0)],
        csv: bool,
        tensorboard: bool,
        name: Annotated[str, MinLen(1)] | None,
    ) -> None:
        self.wandb: WandbMode = wandb
        self.project, self.entity, self.group, self.name = project, entity, group, name
        self.job_type, self.tags = job_type, tags
        self.finish_timeout_s = finish_timeout_s
        self.num_samples = num_samples
        self.csv, self.tensorboard = csv, tensorboard

    @property
    def close_timeout_s(self) -> float:
        """Seconds that the end of a run waits for all sinks: W&B's timeout plus a margin for everything else."""
        return self.finish_timeout_s + 15.0

    def problems(self) -> list[str]:
        """Return problems that would fail the run later."""
        problems = []
        if self.tensorboard and importlib.util.find_spec("tensorboardX") is None:
            problems.append(
                "`tracking.tensorboard` needs tensorboardX, which is not installed; "
                "run pip install 'ptl-prefix[tensorboard]'."
            )
        mode = os.environ.get("WANDB_MODE")
        if self.wandb != "none" and mode and mode not in WANDB_MODES:
            problems.append(f"WANDB_MODE must be one of {', '.join(WANDB_MODES)}, but is {mode!r}.")
        if resolve_mode(self.wandb, os.environ) != "none":
            problems += wandb_name_problems(**self._wandb_names)
        return problems

    @property
    def _wandb_names(self) -> dict[str, Any]:
        """What W&B calls the run and what it belongs to."""
        return {
            "project": self.project,
            "entity": self.entity,
            "group": self.group,
            "name": self.name,
            "job_type": self.job_type,
            "tags": self.tags,
        }

    def sinks(self) -> list[EventSink]:
        """Create the configured sinks; only rank 0 has any."""
        if os.environ.get("RANK", "0") != "0":
            return []
        sinks: list[EventSink] = []
        if self.csv:
            sinks.append(CsvSink())
        if self.tensorboard:
            sinks.append(TensorBoardSink())
        mode = resolve_mode(self.wandb, os.environ)
        if mode != "none":
            sinks.append(WandbSink(mode=mode, **self._wandb_names, finish_timeout_s=self.finish_timeout_s))
        return sinks
