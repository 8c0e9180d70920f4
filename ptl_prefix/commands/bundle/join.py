"""`ptl-prefix join`: joins two prefixes, measures the result on both tasks, and writes it if it is not worse."""

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.bundle import Bundle, BundleContents, check_replaceable, read_bundle, write_bundle
from ptl_prefix.artifacts.bundle_folder import find_bundle
from ptl_prefix.artifacts.manifest import Manifest
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.commands.bundle.join_measurement import TaskMeasurement, measure_task
from ptl_prefix.commands.config.bundle_inputs import load_bundle_backbone
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.data.task import Task
from ptl_prefix.errors import BundleError, ConfigError
from ptl_prefix.methods.prefix_joining import JoinedPrefix, join_prefixes, join_problems
from ptl_prefix.methods.restore import restore
from ptl_prefix.training.console import EscapingConsole

_HASH_DIGITS = 16
_ORDER = ("first", "second")


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Join two bundles.

    Args:
        config: See `conf/join.yaml`.
        words: The two bundles, or run folders.
        run_folder: Not used, because a join is not a run.
    """
    if len(words) != len(_ORDER):
        raise ConfigError(
            [f"`join` needs two bundles or run folders as arguments, but got {len(words)}: ptl-prefix join A B out=C."]
        )
    bundles = [read_bundle(word) for word in words]
    tasks = _tasks(config, words)
    problems = join_problems(*(bundle.manifest for bundle in bundles)) + _task_problems(tasks)
    if problems:
        raise ConfigError(problems)
    check_replaceable(config["out"])
    backbone = load_bundle_backbone(bundles[0].manifest, config)
    joined = join_prefixes(bundles[0], bundles[1], backbone)
    contents = _contents(joined, bundles)
    measurements = _measure(contents, bundles, tasks, backbone, config)
    console = EscapingConsole()
    show_join(joined, backbone, measurements, config["max_loss_increase"], console)
    _refuse_worse(measurements, config["max_loss_increase"])
    write_bundle(config["out"], dataclasses.replace(contents, metrics=_recorded(measurements)))
    console.print(Text(f"bundle: {config['out']}"), soft_wrap=True)


def _tasks(config: Mapping[str, Any], words: Sequence[str]) -> list[Task]:
    """The task of each bundle, by the config of its run."""
    tasks, missing = [], []
    for name, word in zip(_ORDER, words, strict=True):
        folder = RunFolder(config[f"{name}_run"] or find_bundle(word).parent)
        if not folder.config.is_file():
            missing.append(
                f"`{name}_run` must be set for a bundle outside of a run folder, as the join is measured on its run's "
                f"task, but is null and '{word}' is in none; add {name}_run=<run folder>."
            )
            continue
        tasks.append(build(read_config(folder, ("task",))["task"]))
    if missing:
        raise ConfigError(missing)
    return tasks


def _task_problems(tasks: Sequence[Task]) -> list[str]:
    problems = [problem for task in tasks for problem in task.problems()]
    return problems or [
        f"A task must have a validation split, which joins are measured on, but {task.name} has none; give it one."
        for task in tasks
        if "validation" not in task.splits
    ]


def _contents(joined: JoinedPrefix, bundles: Sequence[Bundle]) -> BundleContents:
    """The joined bundle. `task` and `task_version`, which every version reads, say what it was made of."""
    first, second = (bundle.manifest for bundle in bundles)
    longest = max((first.decoding, second.decoding), key=lambda decoding: decoding.max_new_tokens)
    return BundleContents(
        tensors=joined.tensors,
        method=first.method,
        settings=joined.settings,
        task=f"{first.task}+{second.task}",
        task_version=f"{_version(first)}+{_version(second)}",
        prompt=first.prompt,
        stop_ids=first.stop_ids,
        decoding=dataclasses.replace(first.decoding, max_new_tokens=longest.max_new_tokens),
        # Of one set of labels the other task's texts would be no members.
        label_set=first.label_set if first.label_set == second.label_set else None,
        metrics={},
        geometry={str(site): {str(name): size for name, size in own.items()} for site, own in first.geometry.items()},
        position_law=first.position_law,
        dtype=first.dtype,
        backbone=first.backbone,
    )


def _version(manifest: Manifest) -> str:
    """A part's version, and the hash of its tensors."""
    return f"{manifest.task_version}@{manifest.tensors_sha256[:_HASH_DIGITS]}"


def _measure(
    contents: BundleContents,
    bundles: Sequence[Bundle],
    tasks: Sequence[Task],
    backbone: Backbone,
    config: Mapping[str, Any],
) -> list[TaskMeasurement]:
    """Measure what a reader of the bundle would get: it is written to a temporary folder and restored."""
    progress = EscapingConsole(stderr=True)
    with tempfile.TemporaryDirectory() as folder:
        candidate = write_bundle(Path(folder, "joined"), contents)
    adaptations = [restore(backbone, bundle) for bundle in (candidate, *bundles)]
    measurements = []
    for task in tasks:
        progress.print(f"measuring {task.name}", highlight=False)
        measurements.append(measure_task(task, adaptations, config))
    return measurements


def show_join(
    joined: JoinedPrefix,
    backbone: Backbone,
    measurements: Sequence[TaskMeasurement],
    max_loss_increase: float,
    console: Console,
) -> None:
    """Print what was joined, and what was measured."""
    for line in _description(joined, backbone):
        console.print(Text(line), soft_wrap=True)
    table = Table(
        title="validation loss, nats per target token",
        title_justify="left",
        caption=f"in brackets the 95% interval; worse: its upper end is above {max_loss_increase:g}",
        caption_justify="left",
    )
    for heading in ("task", "examples", "joined", "first", "second", "joined - better one"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for one in measurements:
        found = one.difference
        table.add_row(
            Text(escape_controls(one.task)),
            f"{one.num_examples} of {one.num_sampled}",
            *(f"{value:.4f}" for value in one.losses),
            f"{found.value:+.3f} ({found.low:+.3f}, {found.high:+.3f})",
        )
    console.print(table)
    if any(one.metrics for one in measurements):
        console.print(_metrics_table(measurements))


def _metrics_table(measurements: Sequence[TaskMeasurement]) -> Table:
    table = Table(title="metrics of decoded validation examples", title_justify="left")
    for heading in ("task", "metric", "examples", "joined", "first", "second"):
        table.add_column(heading, justify="left" if heading in ("task", "metric") else "right")
    for one in measurements:
        for name, values in one.metrics.items():
            names = (Text(escape_controls(one.task)), Text(escape_controls(name)))
            table.add_row(*names, str(one.num_decoded), *(f"{value:.4f}" for value in values))
    return table


def _description(joined: JoinedPrefix, backbone: Backbone) -> list[str]:
    lines = [f"joined {joined.num_first} and {joined.num_second} positions on {backbone.name}"]
    if joined.num_dropped:
        lines.append("both prefixes begin with the backbone's sink; that of the second was left out")
    if joined.moved_by:
        lines.append(f"the keys of the second prefix were rotated by {joined.moved_by} positions")
    elif joined.settings["position_law"] == "shifted":
        lines.append("the keys of the second prefix stay as they are: learned positions cannot be moved")
    return lines


def _refuse_worse(measurements: Sequence[TaskMeasurement], max_loss_increase: float) -> None:
    worse = [one for one in measurements if one.is_worse(max_loss_increase)]
    if not worse:
        return
    facts = " and ".join(
        f"on {one.task} it may be {one.difference.high:.4f} above that of the {one.better} alone" for one in worse
    )
    raise BundleError(
        f"The loss of a join must stay within {max_loss_increase:g} of the better prefix alone on both tasks, but "
        f"{facts}; nothing was written. Use the two bundles one at a time, or train one prefix on both tasks."
    )


def _recorded(measurements: Sequence[TaskMeasurement]) -> dict[str, float]:
    """The losses, for the manifest: `val/loss/<task>`, and `val/loss_alone/<task>` of the better prefix alone."""
    groups = [one.task for one in measurements]
    groups = groups if len(set(groups)) == len(groups) else list(_ORDER)
    metrics = {}
    for group, one in zip(groups, measurements, strict=True):
        metrics[f"val/loss/{group}"] = one.losses[0]
        metrics[f"val/loss_alone/{group}"] = min(one.losses[1:])
    return metrics
