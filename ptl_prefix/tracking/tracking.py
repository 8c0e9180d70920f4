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
from ptl_prefix.tracking.wandb_mode import WANDB_MODES, Choice, chosen
from ptl_prefix.tracking.wandb_sink import WandbSink


class Tracking:
    """Which sinks a run has besides the disk.

    Args:
        wandb: Mode of W&B; `auto` is `online` with an API key and a server that answers within a second, else
            `offline`. The variable `WANDB_MODE` takes precedence, except over `none`.
        project: W&B project.
        entity: W&B user or team; `None` is that of the API key.
        group: W&B group of the run; `None` is the sweep of `-m`, or no group.
        job_type: W&B job type of the run.
        tags: W&B tags of the run.
        finish_timeout_s: Seconds that the end of a run waits until W&B has received everything.
        num_samples: Number of validation sources decoded at every validation; 0 decodes none.
        csv: Whether `metrics.csv` is written, a row for each logged step.
        tensorboard: Whether TensorBoard event files are written to `tensorboard/`; needs the extra `[tensorboard]`.
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
    def patience_s(self) -> float:
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
        mode: Literal["auto", "online", "offline", "none"] = chosen(self.wandb, os.environ)
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
