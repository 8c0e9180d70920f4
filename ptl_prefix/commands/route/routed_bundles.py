"""The bundles of a folder, as a server would name them, and inputs of their tasks.

In: a folder with run folders or bundles. Out: `RoutedBundle`s with their routing facts and inputs. The inputs come from
the task of the run that a bundle is in, or from a text file with the bundle's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.bundle import read_routing
from ptl_prefix.artifacts.bundle_folder import find_bundle
from ptl_prefix.artifacts.manifest import MANIFEST_FILE, Manifest, read_manifest
from ptl_prefix.artifacts.routing_facts import RoutingFacts
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.config.bundle_inputs import source_lines
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.data.task import Task
from ptl_prefix.errors import ConfigError
from ptl_prefix.evaluation.evaluate import sample
from ptl_prefix.serving.served_bundle import NAME_PATTERN

Rows = list[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class RoutedBundle:
    """One bundle of the folder.

    Args:
        name: Name of its task on a server: that of its subfolder.
        folder: Folder of the bundle.
        manifest: Manifest of the bundle.
        facts: Routing facts; `None` for a bundle without them.
        task: Task of its run; `None` for a bundle whose inputs are lines of a file.
        rows: Inputs, with `source`; of a task, with everything that its metrics need.
    """

    name: str
    folder: Path
    manifest: Manifest
    facts: RoutingFacts | None
    task: Task | None
    rows: Rows


def read_bundles(config: Mapping[str, Any]) -> list[RoutedBundle]:
    """The bundles of `bundles`, with their inputs.

    Raises:
        ConfigError: With every bundle whose name or inputs a server or an evaluation could not use, or without any.
        BundleError: A bundle is damaged.
        DataError: Inputs cannot be read.
    """
    entries = [path for path in sorted(Path(config["bundles"]).iterdir()) if _is_bundle(path)]
    if not entries:
        raise ConfigError(
            [f"`bundles` must be a folder of run folders or bundles, but '{config['bundles']}' has none."]
        )
    tasks = {path: _task(path) for path in entries}
    if problems := [problem for path in entries for problem in _problems(path, tasks[path], config)]:
        raise ConfigError(problems)
    return [_read(path, tasks[path], config) for path in entries]


def _is_bundle(path: Path) -> bool:
    return path.is_dir() and (RunFolder(path).config.is_file() or (path / MANIFEST_FILE).is_file())


def _task(path: Path) -> Task | None:
    """The task of the run that the path is, or that the bundle is in."""
    run = RunFolder(path)
    if not run.config.is_file():
        run = RunFolder(path.resolve().parent)
    if not run.config.is_file():
        return None
    task: Task = build(read_config(run, ("task",))["task"])
    return task


def _problems(path: Path, task: Task | None, config: Mapping[str, Any]) -> list[str]:
    problems = []
    if not NAME_PATTERN.match(path.name):
        problems.append(
            "A subfolder of `bundles` must be named with up to 64 letters, digits, '.', '_' and '-', as a server names "
            f"its tasks, but one is {path.name!r}."
        )
    if task is None:
        if (lines := _lines_file(path.name, config)) is None or not lines.is_file():
            problems.append(
                f"The bundle {path.name} must be in a run folder, whose task has inputs, or `inputs` must be a folder "
                f"with a file {path.name}.txt; add the file."
            )
        return problems
    if config["split"] not in task.splits:
        problems.append(f"`split` must be a split of {task.name} ({', '.join(task.splits)}), but is {config['split']}.")
    return [*problems, *(f"{path.name}: {problem}" for problem in task.problems())]


def _lines_file(name: str, config: Mapping[str, Any]) -> Path | None:
    return None if config["inputs"] is None else Path(config["inputs"], f"{name}.txt")


def _read(path: Path, task: Task | None, config: Mapping[str, Any]) -> RoutedBundle:
    bundle, number = find_bundle(path), config["num_examples"]
    if task is not None:
        rows = sample(task, config["split"], number).rows
    else:
        lines = list(source_lines(str(_lines_file(path.name, config))))
        kept = len(lines) if number is None else min(number, len(lines))
        rows = [{"source": lines[index * len(lines) // kept], "group": ""} for index in range(kept)]
    return RoutedBundle(
        name=path.name,
        folder=bundle,
        manifest=read_manifest(bundle),
        facts=read_routing(bundle),
        task=task,
        rows=rows,
    )
