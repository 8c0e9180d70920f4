"""Where a run's events go besides the disk, as configured.

In: settings. Out: sinks, in the order in which they are told, none of them opened; and mistakes that can be seen
before a run: a library that is not there, a word in WANDB_MODE that means nothing.
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, MinLen

from ptl_prefix.settings import settings_from
from ptl_prefix.tracking.csv_sink import CsvSink
from ptl_prefix.tracking.events import EventSink
from ptl_prefix.tracking.tensorboard_sink import TensorBoardSink
from ptl_prefix.tracking.wandb_mode import WANDB_MODES, Choice, resolve_mode
from ptl_prefix.tracking.wandb_sink import WandbSink


class Tracking:
    """Which sinks a run has besides the disk.

    Args:
        wandb: Whether W&B is told, and over the network or not; `auto` is explained in `wandb_mode.py`.
        project: W&B's project.
        entity: W&B's user or team; `None`: the key's own.
        group: Runs that belong together in W&B.
        job_type: What W&B shall call this kind of run.
        tags: W&B's.
        finish_timeout_s: How long the end of a run waits for W&B's server.
        num_samples: Validation sources decoded at every validation.
        csv: Whether `metrics.csv` is kept.
        tensorboard: Whether TensorBoard's files are written.
    """

    @settings_from("tracking/auto")
    def __init__(
        self,
        *,
        wandb: Choice,
        project: Annotated[str, MinLen(1)],
        entity: str | None,
        group: str | None,
        job_type: str,
        tags: Sequence[str],
        finish_timeout_s: Annotated[float, Gt(0)],
        num_samples: Annotated[int, Ge(0)],
        csv: bool,
        tensorboard: bool,
    ) -> None:
        self.wandb: Choice = wandb
        self.project, self.entity, self.group = project, entity, group
        self.job_type, self.tags = job_type, tags
        self.finish_timeout_s = finish_timeout_s
        self.num_samples = num_samples
        self.csv, self.tensorboard = csv, tensorboard

    @property
    def close_timeout_s(self) -> float:
        """How long a run's end waits for all sinks: W&B's own time, and a little for what is not its server."""
        return self.finish_timeout_s + 15.0

    def problems(self) -> list[str]:
        """What a run would trip over later."""
        problems = []
        if self.tensorboard and importlib.util.find_spec("tensorboardX") is None:
            problems.append(
                "`tracking.tensorboard` needs tensorboardX, which is not installed; "
                "run pip install 'ptl-prefix[tensorboard]'."
            )
        mode = os.environ.get("WANDB_MODE")
        if self.wandb != "none" and mode and mode not in WANDB_MODES:
            problems.append(f"WANDB_MODE must be one of {', '.join(WANDB_MODES)}, but is {mode!r}.")
        return problems

    def sinks(self) -> list[EventSink]:
        """Those that are wanted; only the first of several processes of a run speaks."""
        if os.environ.get("RANK", "0") != "0":
            return []
        sinks: list[EventSink] = []
        if self.csv:
            sinks.append(CsvSink())
        if self.tensorboard:
            sinks.append(TensorBoardSink())
        mode: Literal["auto", "online", "offline", "none"] = resolve_mode(self.wandb, os.environ)
        if mode != "none":
            sinks.append(
                WandbSink(
                    mode=mode,
                    project=self.project,
                    entity=self.entity,
                    group=self.group,
                    job_type=self.job_type,
                    tags=self.tags,
                    finish_timeout_s=self.finish_timeout_s,
                )
            )
        return sinks
