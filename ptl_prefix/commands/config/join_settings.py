"""The settings at the root of `conf/join.yaml`, with types and ranges."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from ptl_prefix.commands.config.verb_settings import run_problems


@dataclass(frozen=True, kw_only=True)
class JoinSettings:
    """The keys at the root of `conf/join.yaml`.

    Args:
        out: Folder for the joined bundle; an older bundle in it is replaced.
        first_run: Run folder whose task the first bundle is for; `None` is the run folder that holds the bundle.
        second_run: Run folder whose task the second bundle is for; `None` is the run folder that holds the bundle.
        max_loss_increase: Nats per target token by which the validation loss of each task may rise: the upper end of
            the difference's 95% interval must not be above it.
        num_examples: Number of validation examples of each task, evenly spread over the split; `None` is all.
        resamples: Bootstrap resamples for the intervals.
        resample_seed: Seed of the bootstrap resamples.
        metrics: Whether to also decode, and show each task's metrics; they do not decide.
        num_decoded: Number of examples of each task that are decoded for the metrics, evenly spread over the split.
        batch_size: Number of examples in one forward pass.
        dtype: Dtype of the backbone's weights and computations; `None` is that of the training.
        device: Device of the backbone; `auto` takes a GPU if there is one.
    """

    out: str
    first_run: str | None
    second_run: str | None
    max_loss_increase: Annotated[float, Ge(0)]
    num_examples: Annotated[int, Ge(2)] | None
    resamples: Annotated[int, Ge(100)]
    resample_seed: Annotated[int, Ge(0)]
    metrics: bool
    num_decoded: Annotated[int, Ge(1)]
    batch_size: Annotated[int, Ge(1)]
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None
    device: Literal["auto", "cpu", "cuda", "mps"]

    def problems(self) -> list[str]:
        """Folders that are not run folders."""
        return [
            problem.replace("`run`", f"`{name}`")
            for name in ("first_run", "second_run")
            for problem in run_problems(getattr(self, name))
        ]
