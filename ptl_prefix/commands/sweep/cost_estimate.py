"""`ptl-prefix sweep plan`: estimates what a study will cost, from a few measured steps of its extreme points.

In: a parsed study. Out: `SweepEstimate`, also written to `plan.json` in the study's folder, so that the study's report
can compare it with the actual cost. The steps are measured by short trainings of the extreme points of the search
space, one after another, each in a process of its own and in a temporary folder.
"""

import dataclasses
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.event_log import read_events
from ptl_prefix.artifacts.fingerprint import num_cores
from ptl_prefix.artifacts.run_config import write_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.commands.config.arguments import HydraFlags
from ptl_prefix.commands.config.compose import compose_and_check
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.sweep.parsed_study import ParsedStudy
from ptl_prefix.commands.terminal import format_duration
from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.study_spec import Arm, StudySpec
from ptl_prefix.sweeping.trial_processes import TRIAL_LOG, TrialServer

ESTIMATE_FILE = "plan.json"
_NUM_STEPS = 6
_SLACK = 1.3
"""A long run's steps take longer than the first ones of a new process: batches are longer and other processes run."""
_BYTES_PER_PARAMETER = 4
_CHECKPOINT_COPIES = 2 * 3
"""Two checkpoints, the best and the last, each with the parameters and two moments of AdamW."""
_MAX_SHOWN_VALUES = 12

Range = tuple[float, float]


@dataclass(frozen=True)
class SweepEstimate:
    """The estimated cost of a study; each range is from the cheapest to the most expensive point.

    Args:
        jobs: Number of trials including the confirmation; `None` if the budget is not a number of trials.
        trained: Trainable parameters.
        stored: Stored parameters.
        disk_bytes: Bytes on disk of all trials.
        step_s: Seconds of one training step.
        train_s: Seconds of training, summed over all trials.
        wall_s: Seconds from start to end on this machine, with the study's number of workers.
    """

    jobs: int | None
    trained: Range
    stored: Range
    disk_bytes: Range
    step_s: Range
    train_s: Range
    wall_s: Range


@dataclass(frozen=True)
class _Measurement:
    """The size and cost of one point.

    Args:
        trained: Trainable parameters.
        stored: Stored parameters.
        steps: Optimizer steps of a whole training.
        step_s: Seconds of one step.
        fixed_s: Seconds of everything else in a trial.
    """

    trained: int
    stored: int
    steps: int
    step_s: float
    fixed_s: float


def estimate_sweep(study: ParsedStudy, flags: HydraFlags, console: Console, server: TrialServer) -> SweepEstimate:
    """Measure the extreme points of a study's search space, and write the estimate to the study's folder.

    Args:
        study: The parsed study.
        flags: Hydra's flags.
        console: Shows what is measured.
        server: Starts the measured trainings.
    """
    with tempfile.TemporaryDirectory(prefix="ptl-prefix-plan-") as scratch:
        measurements = [
            _measure(config, Path(scratch) / str(number), server, study.spec, console)
            for number, config in enumerate(_extreme_configs(study.spec, flags))
        ]
    estimate = _estimate(study.spec, measurements)
    write_atomically(study.folder / ESTIMATE_FILE, json.dumps(dataclasses.asdict(estimate), indent=1) + "\n")
    return estimate


def read_estimate(folder: Path) -> SweepEstimate | None:
    """The estimate in a study's folder; `None` if none was made."""
    try:
        values = json.loads((folder / ESTIMATE_FILE).read_text(encoding="utf-8"))
        ranges = {key: (value[0], value[1]) for key, value in values.items() if key != "jobs"}
        return SweepEstimate(jobs=values["jobs"], **ranges)
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


def show_estimate(study: ParsedStudy, estimate: SweepEstimate, console: Console) -> None:
    """Print the search space and the estimate as a table."""
    spec = study.spec
    table = Table(title=f"study {spec.name}: estimate, nothing is trained yet", title_justify="left", show_header=False)
    for arm in spec.arms:
        for key, dimension in arm.space.dimensions.items():
            listed = dimension.listed()
            is_long = listed is None or len(listed) > _MAX_SHOWN_VALUES
            values = dimension.ends() if is_long else [dimension.text(one) for one in listed or []]
            table.add_row(f"{arm.name} {key}".strip(), (" to " if is_long else ", ").join(values))
    trials = "as many as the budget allows" if estimate.jobs is None else f"{estimate.jobs:,}"
    at_once = spec.n_jobs * spec.pack
    table.add_row("trials", trials + (f", {at_once} at once" if at_once > 1 else ""))
    table.add_row("trainable parameters", _format_range(estimate.trained, lambda number: f"{number:,.0f}"))
    table.add_row("stored parameters", _format_range(estimate.stored, lambda number: f"{number:,.0f}"))
    table.add_row("disk", _format_range(estimate.disk_bytes, lambda number: f"{number / 1e6:,.1f} MB"))
    table.add_row("time per step, measured", _format_range(estimate.step_s, lambda number: f"{number * 1e3:,.0f} ms"))
    table.add_row("training time of all trials", _format_range(estimate.train_s, format_duration))
    table.add_row("time from start to end", _format_range(estimate.wall_s, format_duration))
    console.print(table)
    console.print(Text(f"estimate:  {study.folder / ESTIMATE_FILE}"), soft_wrap=True)


def _format_range(ends: Range, format_one: Callable[[float], str]) -> str:
    low, high = format_one(ends[0]), format_one(ends[1])
    return low if low == high else f"{low} to {high}"


def _extreme_configs(spec: StudySpec, flags: HydraFlags) -> list[Mapping[str, Any]]:
    """The configs of each arm's first and last point: the ends of ranges, the first and last value of lists."""
    configs: list[Mapping[str, Any]] = []
    for arm in spec.arms:
        for index in (0, -1):
            point = _extreme_point(arm, index)
            overrides = (*spec.overrides, *arm.overrides, *point)
            configs.append(compose_and_check(VERBS["train"], overrides, flags.without_multirun()).config)
            if not point:
                break
    return configs


def _extreme_point(arm: Arm, index: int) -> Sequence[str]:
    return [f"{key}={dimension.ends()[index]}" for key, dimension in arm.space.dimensions.items()]


def _measure(
    config: Mapping[str, Any], folder: Path, server: TrialServer, spec: StudySpec, console: Console
) -> _Measurement:
    """Train a few steps of a config."""
    from ptl_prefix.commands.config.build_plan import build_plan
    from ptl_prefix.training.dry_run import estimate

    size = estimate(build_plan(config))
    steps = min(_NUM_STEPS, size.steps)
    trainer = {**config["trainer"], "max_steps": steps, "log_every_n_steps": 1, "val_check_interval": steps}
    run = RunFolder(folder)
    write_config(run, {**config, "trainer": trainer})
    console.print(f"measuring {steps} steps with {size.num_trainable:,} trainable parameters", highlight=False)
    start = time.monotonic()
    threads = spec.threads or max(1, num_cores() // spec.n_jobs)
    code = server.start(folder, threads=threads, device=spec.devices[0] if spec.devices else None).wait(3600.0)
    total_s = time.monotonic() - start
    if code != 0:
        last = (folder / TRIAL_LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise SweepError(f"The measured steps must succeed, but they ended with exit code {code}: {''.join(last)}")
    times = [event["time_s"] for event in read_events(run.events) if event["kind"] == "train"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    step_s = statistics.median(gaps) if gaps else read_record(run.record).cost.train_s / steps
    shutil.rmtree(folder)
    return _Measurement(size.num_trainable, size.num_stored, size.steps, step_s, max(0.0, total_s - steps * step_s))


def _estimate(spec: StudySpec, measurements: Sequence[_Measurement]) -> SweepEstimate:
    per_arm = [spec.max_trials(arm) for arm in spec.arms]
    jobs = None if None in per_arm else sum(filter(None, per_arm)) + spec.max_confirmations
    train_s = [one.steps * one.step_s for one in measurements]
    trial_s = [seconds + one.fixed_s for seconds, one in zip(train_s, measurements, strict=True)]
    sizes = [_BYTES_PER_PARAMETER * (one.stored + _CHECKPOINT_COPIES * one.trained) + 200_000 for one in measurements]
    count = jobs if jobs is not None else 1
    return SweepEstimate(
        jobs=jobs,
        trained=_range([one.trained for one in measurements]),
        stored=_range([one.stored for one in measurements]),
        disk_bytes=_range([count * size for size in sizes]),
        step_s=_range([one.step_s for one in measurements]),
        train_s=_range([count * seconds for seconds in train_s], slack=_SLACK),
        wall_s=_range([count * seconds / spec.n_jobs for seconds in trial_s], slack=_SLACK),
    )


def _range(values: Sequence[float], slack: float = 1.0) -> Range:
    return float(min(values)), float(max(values) * slack)
