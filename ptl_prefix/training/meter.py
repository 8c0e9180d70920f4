"""The cost of training: seconds, tokens and memory.

In: Lightning's callbacks. Out: `train` and `validation` events, and the totals for the record.
"""

import math
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.tracking.events import EventStream
from ptl_prefix.training.loss_scaling import scaling_of
from ptl_prefix.training.module import AdaptationModule
from ptl_prefix.training.ranks import ONE_RANK, Ranks


class Meter(pl.Callback):
    """Counts seconds and tokens of training without validation, and logs every few steps.

    Args:
        events: Receives `train` and `validation` events.
        log_every_n_steps: Optimizer steps between `train` events.
        ranks: Ranks whose tokens are added up; the seconds are those of one rank.
        clock: Seconds since any moment, in a pack those of this run alone; `None` is the process's.
        loss_key: Key of the loss that a validation measures.
    """

    def __init__(
        self,
        events: EventStream,
        *,
        log_every_n_steps: int,
        ranks: Ranks = ONE_RANK,
        clock: Callable[[], float] | None = None,
        loss_key: str = "val/loss",
    ) -> None:
        self.events = events
        self.loss_key = loss_key
        self._clock = clock or time.perf_counter
        self.log_every_n_steps = log_every_n_steps
        self._ranks = ranks
        self.train_s = 0.0
        self.num_tokens = 0
        self.steps = 0
        self.skipped_steps = 0
        self.planned_steps = 0
        self._began = 0.0
        self._logged = (0.0, 0)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the number of steps of the run."""
        self.planned_steps = trainer.max_steps

    def on_train_batch_start(self, *_: Any) -> None:
        """Start the clock."""
        self._began = self._clock()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: AdaptationModule, outputs: Any, batch: ModelInputs, batch_idx: int
    ) -> None:
        """Stop the clock, count the batch's tokens, and log if a step was made and it is due."""
        self.train_s += self._clock() - self._began
        self.num_tokens += int(*self._ranks.sum(batch.num_tokens))
        self.steps = trainer.global_step
        stepped = (trainer.fit_loop.total_batch_idx + 1) % trainer.accumulate_grad_batches == 0
        scaling = scaling_of(trainer)
        self.skipped_steps += bool(scaling and stepped and scaling.skipped)
        if stepped and trainer.global_step % self.log_every_n_steps == 0:
            seconds, tokens = self.train_s - self._logged[0], self.num_tokens - self._logged[1]
            self._logged = (self.train_s, self.num_tokens)
            values = {**pl_module.last_step, "tokens_per_s": round(tokens / seconds, 1), **self._cost_so_far()}
            if scaling:
                values |= {"loss_scale": scaling.scale, "skipped_steps": self.skipped_steps}
            self.events.write("train", step=trainer.global_step, **values)

    def on_validation_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: AdaptationModule
    ) -> None:
        """Log the validation loss, and the norms of the trainable parameters."""
        found = pl_module.method.tracked_norms().items()
        norms = {f"norm/{name}": norm for name, norm in found if math.isfinite(norm)}  # squares may overflow
        values = {self.loss_key: float(trainer.callback_metrics["val/loss"]), **norms}
        self.events.write("validation", step=trainer.global_step, **values, **self._cost_so_far())

    def _cost_so_far(self) -> dict[str, float]:
        """The cost up to now, from which the record of a killed run is rebuilt."""
        return {"train_s": round(self.train_s, 3), "tokens": self.num_tokens}

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of training; prompts count, padding does not."""
        return self.num_tokens / self.train_s if self.train_s else 0.0

    def state_dict(self) -> dict[str, Any]:
        """The counts, so that a resumed run reports all of them."""
        return {
            "train_s": self.train_s,
            "num_tokens": self.num_tokens,
            "steps": self.steps,
            "skipped_steps": self.skipped_steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.train_s, self.num_tokens, self.steps = (state_dict[key] for key in ("train_s", "num_tokens", "steps"))
        self.skipped_steps = state_dict.get("skipped_steps", 0)
        self._logged = (self.train_s, self.num_tokens)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory so far: of the GPU's allocator, or of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
