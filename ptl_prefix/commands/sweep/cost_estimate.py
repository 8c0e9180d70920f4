"""`ptl-prefix sweep plan`: what a study will take, from its smallest and largest points and a few measured steps.

In: a spec. Out: `Plan`, kept in the study's folder, so that the end can lay what it took beside it. The steps are
measured by short trainings of the same configs in processes of their own, one at a time, in a folder that is removed.
"""

import dataclasses
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
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
from ptl_prefix.commands.sweep.parse_study import Asked
from ptl_prefix.commands.terminal import format_duration
from ptl_prefix.errors import SweepError
from ptl_prefix.sweeping.study_spec import Arm
from ptl_prefix.sweeping.trial_processes import TrialServer

_FILE = "plan.json"
_STEPS = 6
_SLACK = 1.3
"""Steps in a long run are slower than a few in a fresh process: other rows are longer, other processes run."""
_PER_NUMBER_BYTES = 4
_CHECKPOINT_COPIES = 2 * 3
"""The best and the last, each with what AdamW keeps of every parameter."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """What a study will take, each from the least to the most.

    Args:
        jobs: Trials, the confirmation's included; `None` if the budget is not in trials.
        trained: Parameters.
        stored: Parameters.
        disk_bytes: Of all trials.
        step_s: One step of training.
        train_s: Training of all trials, added up.
        wall_s: From begin to end, with this machine's workers.
    """

    jobs: int | None
    trained: Range
    stored: Range
    disk_bytes: Range
    step_s: Range
    train_s: Range
    wall_s: Range


@dataclass(frozen=True)
class _Corner:
    """One measured point: what it trains, and what it takes."""

    trained: int
    stored: int
    steps: int
    step_s: float
    fixed_s: float


def make_plan(asked: Asked, flags: HydraFlags, console: Console, host: TrialServer) -> Plan:
    """Measure the corners of the search, and keep the plan.

    Args:
        asked: What is planned.
        flags: Of Hydra.
        console: Where it is said what is measured.
        host: Starts what is measured.
    """
    with tempfile.TemporaryDirectory(prefix="ptl-prefix-plan-") as scratch:
        corners = [
            _measure(config, Path(scratch) / str(number), host, asked, console)
            for number, config in enumerate(_corner_configs(asked, flags))
        ]
    plan = _plan(asked, corners)
    write_atomically(asked.folder / _FILE, json.dumps(dataclasses.asdict(plan), indent=1) + "\n")
    return plan


def read_plan(folder: Path) -> Plan | None:
    """The plan that was made before a study; `None` if none was."""
    try:
        values = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        ranges = {key: (value[0], value[1]) for key, value in values.items() if key != "jobs"}
        return Plan(jobs=values["jobs"], **ranges)
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


def show_plan(asked: Asked, plan: Plan, console: Console) -> None:
    """The plan as a table."""
    spec = asked.spec
    table = Table(title=f"study {spec.name}: nothing is trained yet", title_justify="left", show_header=False)
    for arm in spec.arms:
        for key, dimension in arm.space.dimensions.items():
            listed = dimension.listed()
            many = listed is None or len(listed) > 12
            shown = " to ".join(dimension.ends()) if many else ", ".join(dimension.text(one) for one in listed or [])
            table.add_row(f"{arm.name} {key}".strip(), shown)
    trials = "as many as the budget allows" if plan.jobs is None else f"{plan.jobs:,}"
    table.add_row("trials", trials + (f", {spec.workers} at once" if spec.workers > 1 else ""))
    table.add_row("parameters trained", _span(plan.trained, lambda number: f"{number:,.0f}"))
    table.add_row("parameters stored", _span(plan.stored, lambda number: f"{number:,.0f}"))
    table.add_row("disk", _span(plan.disk_bytes, lambda number: f"{number / 1e6:,.1f} MB"))
    table.add_row("a step, measured", _span(plan.step_s, lambda number: f"{number * 1e3:,.0f} ms"))
    table.add_row("training in all", _span(plan.train_s, format_duration))
    table.add_row("from begin to end", _span(plan.wall_s, format_duration))
    console.print(table)
    console.print(Text(f"plan:  {asked.folder / _FILE}"), soft_wrap=True)


def _span(ends: Range, spoken: Any) -> str:
    low, high = spoken(ends[0]), spoken(ends[1])
    return low if low == high else f"{low} to {high}"


def _corner_configs(asked: Asked, flags: HydraFlags) -> list[Mapping[str, Any]]:
    """The least and the greatest point of each arm: of numbers the ends, of lists the first and the last."""
    configs: list[Mapping[str, Any]] = []
    for arm in asked.spec.arms:
        for place in (0, -1):
            point = _corner(arm, place)
            overrides = (*asked.spec.overrides, *arm.overrides, *point)
            configs.append(compose_and_check(VERBS["train"], overrides, flags.without_multirun()).config)
            if not point:
                break
    return configs


def _corner(arm: Arm, place: int) -> Sequence[str]:
    return [f"{key}={dimension.ends()[place]}" for key, dimension in arm.space.dimensions.items()]


def _measure(config: Mapping[str, Any], folder: Path, host: TrialServer, asked: Asked, console: Console) -> _Corner:
    """Train a few steps of a config."""
    from ptl_prefix.commands.config.build_plan import build_plan
    from ptl_prefix.training.dry_run import estimate

    estimated = estimate(build_plan(config))
    steps = min(_STEPS, estimated.steps)
    trainer = {**config["trainer"], "max_steps": steps, "log_every_n_steps": 1, "val_check_interval": steps}
    short = {**config, "trainer": trainer}
    run = RunFolder(folder)
    write_config(run, short)
    spec = asked.spec
    console.print(f"measuring {steps} steps with {estimated.num_trainable:,} trainable parameters", highlight=False)
    began = time.monotonic()
    threads = spec.threads or max(1, num_cores() // spec.workers)
    code = host.start(folder, threads=threads, device=spec.devices[0] if spec.devices else None).wait(3600.0)
    took = time.monotonic() - began
    if code != 0:
        last = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise SweepError(f"A study's first steps must run, but they ended with exit code {code}: {''.join(last)}")
    times = [event["time_s"] for event in read_events(run.events) if event["kind"] == "train"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    record = read_record(run.record)
    step_s = statistics.median(gaps) if gaps else record.cost.train_s / steps
    shutil.rmtree(folder)
    return _Corner(
        estimated.num_trainable, estimated.num_stored, estimated.steps, step_s, max(0.0, took - steps * step_s)
    )


def _plan(asked: Asked, corners: Sequence[_Corner]) -> Plan:
    spec = asked.spec
    per_arm = [spec.trials_of(arm) for arm in spec.arms]
    jobs = None if None in per_arm else sum(filter(None, per_arm)) + spec.most_confirmed
    training = [corner.steps * corner.step_s for corner in corners]
    whole = [seconds + corner.fixed_s for seconds, corner in zip(training, corners, strict=True)]
    sizes = [_PER_NUMBER_BYTES * (corner.stored + _CHECKPOINT_COPIES * corner.trained) + 200_000 for corner in corners]
    count = jobs if jobs is not None else 1
    return Plan(
        jobs=jobs,
        trained=_ends([corner.trained for corner in corners]),
        stored=_ends([corner.stored for corner in corners]),
        disk_bytes=_ends([count * size for size in sizes]),
        step_s=_ends([corner.step_s for corner in corners]),
        train_s=_ends([count * seconds for seconds in training], slack=_SLACK),
        wall_s=_ends([count * seconds / spec.workers for seconds in whole], slack=_SLACK),
    )


def _ends(values: Sequence[float], slack: float = 1.0) -> Range:
    return float(min(values)), float(max(values) * slack)
