"""`ptl_prefix.train`, `distill`, `evaluate`, `compare`, `advise` and `load_run`: the command line, from Python.

In: settings by the names of the command line, or objects. Out: a `Run`, an evaluation, a comparison or advice.
Every mistake in the settings is in one `ConfigError`, before any weights load.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.metric_key import bare_key, is_bare
from ptl_prefix.artifacts.remote.open_run import open_run
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import RunRecord, read_record
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.commands.advise.command import advise_config
from ptl_prefix.commands.compare.command import compare_config
from ptl_prefix.commands.config.arguments import CommandLine, HydraFlags
from ptl_prefix.commands.config.compose import CheckedConfig, compose_and_check
from ptl_prefix.commands.config.python_settings import as_overrides
from ptl_prefix.commands.config.resolvers import forget_run_ids
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.config.working_configs import completed
from ptl_prefix.commands.distill.command import distill_config
from ptl_prefix.commands.evaluate.command import evaluate_config
from ptl_prefix.commands.train.command import train_config
from ptl_prefix.data.task import Task
from ptl_prefix.errors import ConfigError
from ptl_prefix.evaluation.evaluate import Evaluation
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.restore import Adaptation, load_bundle
from ptl_prefix.reporting.advice.advise import Advice
from ptl_prefix.reporting.comparison import Comparison
from ptl_prefix.training.console import EscapingConsole


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Args:
        path: Run folder.
        record: Content of its `record.json`: status, config, metrics and cost.
    """

    path: Path
    record: RunRecord

    @property
    def metrics(self) -> Mapping[str, float]:
        """The metrics by `split/name`, such as `test/bleu`."""
        return self.record.metrics

    @property
    def bundle(self) -> Path | None:
        """The folder of the bundle; `None` if the run wrote none."""
        folder = RunFolder(self.path).bundle
        return folder if folder.is_dir() else None

    def _repr_markdown_(self) -> str:
        """What a notebook shows of a run: its metrics before and after, and its folder."""
        rows = [
            f"| `{name}` | {_number(self.metrics.get(bare_key(name)))} | {_number(value)} |"
            for name, value in self.metrics.items()
            if not is_bare(name)
        ]
        title = f"`{self.record.method}` on `{self.record.backbone}`, {self.record.task}: {self.record.status}"
        return "\n".join(
            [title, "", "| metric | before | after |", "| --- | ---: | ---: |", *rows, "", f"`{self.path}`"]
        )

    def load(self, backbone: Backbone) -> Adaptation:
        """Attach the run's bundle to a backbone; see `ptl_prefix.load_bundle`."""
        return load_bundle(self.path, backbone)


def train(
    *,
    task: str | Task | None = None,
    backbone: str | BackboneSpec | None = None,
    method: str | Method | None = None,
    resume: str | Path | None = None,
    config_dir: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Train a method on a frozen backbone, or resume a run, as `ptl-prefix train` does.

    Example:
        >>> import ptl_prefix
        >>> run = ptl_prefix.train(method="lora", **{"method.rank": 2, "trainer.max_steps": 20})
        >>> print(run.path, run.metrics["val/loss"])

    Args:
        task: Choice of `task=`, or a task; `None` is `table_to_text`, or that of the experiment.
        backbone: Choice of `backbone=`, a folder, a hub name, or a `BackboneSpec`; `None` is `tiny_gpt2`, or that of
            the experiment.
        method: Choice of `method=`, or a method that was never attached; `None` is `prefix_tuning`, or that of the
            experiment.
        resume: Run folder of a stopped or killed run.
        config_dir: Folder of your own configs; `None` is `./conf` if there is one.
        quiet: Whether to print neither progress nor tables.
        settings: Other settings by their names on the command line, such as `seed=1`, `experiment="e2e_..."`,
            `trainer={"max_steps": 400}` or `**{"optimizer.lr": 1e-3}`.

    Returns:
        The run.

    Raises:
        ConfigError: With every mistake in the settings.
        KeyboardInterrupt: After Ctrl-C; the run is saved and can be resumed.
        PtlPrefixError: Other errors, as of the command.
    """
    chosen = {"task": task, "backbone": backbone, "method": method, "resume": resume}
    given = {**{key: value for key, value in chosen.items() if value is not None}, **settings}
    if given.get("dry_run"):
        raise ConfigError(["`dry_run` is of the command line alone: ptl-prefix train dry_run=true."])
    forget_run_ids()
    checked = _checked("train", given, config_dir)
    folder = RunFolder(checked.run_folder.absolute())
    keys = [override.partition("=")[0] for override in checked.overrides]
    try:
        train_config(checked.config, folder, EscapingConsole(stderr=True, quiet=quiet), given=keys)
    except SystemExit as stop:
        if stop.code != 128 + signal.SIGINT:
            raise
        raise KeyboardInterrupt(f"The run was stopped; resume it with resume={folder.path}.") from stop
    return load_run(folder.path)


def distill(
    *,
    document: str | Path | None = None,
    questions: str | Path | None = None,
    backbone: str | BackboneSpec | None = None,
    method: str | Method | None = None,
    resume: str | Path | None = None,
    config_dir: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Train a prefix of a document, or resume such a run, as `ptl-prefix distill` does.

    Example:
        >>> run = ptl_prefix.distill(document="manual.txt", backbone="smollm2", **{"method.prefix_length": 64})
        >>> bundle = run.load(load_backbone("smollm2"))

    Args:
        document: Text file in UTF-8; needed unless a run is resumed.
        questions: File of questions that are asked at the end, of the prefix and its controls.
        backbone: Choice of `backbone=`, a folder, a hub name, or a `BackboneSpec`; `None` is `smollm2`.
        method: Choice of `method=`, or a method that was never attached; `None` is `document_prefix`.
        resume: Run folder of a stopped or killed run.
        config_dir: Folder of your own configs; `None` is `./conf` if there is one.
        quiet: Whether to print no progress.
        settings: Other settings by their names on the command line, such as `update="outputs/manual"` or
            `self_study={"coverage": 10.0}`.

    Returns:
        The run.

    Raises:
        ConfigError: With every mistake in the settings.
        PtlPrefixError: Other errors, as of the command.
    """
    chosen = {
        "document": document,
        "questions": questions,
        "backbone": backbone,
        "method": method,
        "resume": resume,
    }
    given = {**{key: value for key, value in chosen.items() if value is not None}, **settings}
    if given.get("dry_run"):
        raise ConfigError(["`dry_run` is of the command line alone: ptl-prefix distill dry_run=true."])
    forget_run_ids()
    checked = _checked("distill", given, config_dir)
    folder = RunFolder(checked.run_folder.absolute())
    distill_config(checked.config, folder, EscapingConsole(stderr=True, quiet=quiet))
    return load_run(folder.path)


def load_run(path: str | Path) -> Run:
    """Read a run that has ended.

    Args:
        path: Run folder, or address of a mirrored run, which is fetched into the user's cache.

    Raises:
        RunError: When there is no run, or it has not ended.
        ObjectStoreError: When no run is mirrored at the address, or the store cannot be read.
    """
    folder = open_run(path)
    return Run(folder.path.absolute(), read_record(folder.record))


def evaluate(
    *,
    run: "str | Path | Run | None" = None,
    bundle: str | Path | None = None,
    backbone: str | BackboneSpec | None = None,
    task: str | Task | None = None,
    split: str = "test",
    config_dir: str | Path | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Evaluation:
    """Decode and score a split with a run, a bundle or a bare backbone, as `ptl-prefix evaluate` does.

    Example:
        >>> evaluation = ptl_prefix.evaluate(run=run, num_examples=20, num_beams=4)
        >>> print(evaluation.record.metrics)

    Args:
        run: Run or run folder, whose bundle and task are used.
        bundle: Bundle, instead of `run`; outside of a run folder it needs `task`.
        backbone: Without `run` and `bundle`: a bare backbone. With one: the folder or hub name of its backbone.
        task: Choice of `task=`, or a task; `None` is the run's.
        split: `test`, `validation` or `train`.
        config_dir: Folder of your own configs; `None` is `./conf` if there is one.
        quiet: Whether to print no progress.
        settings: Other settings of `ptl-prefix evaluate`, such as `metrics=["bleu"]` or `resamples=1000`.

    Returns:
        The evaluation, with its record and its predictions.

    Raises:
        ConfigError: With every mistake in the settings.
        PtlPrefixError: Other errors, as of the command.
    """
    chosen = {
        "run": run.path if isinstance(run, Run) else run,
        "bundle": bundle,
        "backbone": backbone,
        "task": task,
        "split": split,
    }
    given = {**{key: value for key, value in chosen.items() if value is not None}, **settings}
    checked = _checked("evaluate", given, config_dir)
    return evaluate_config(checked.config, EscapingConsole(stderr=True, quiet=quiet))


def compare(*runs: "str | Path | Run", **settings: Any) -> Comparison:
    """Compare runs, as `ptl-prefix compare` does: write tables and a page, and return the comparison.

    Example:
        >>> comparison = ptl_prefix.compare(run, "outputs/other", metric="test/bleu", out="comparison")
        >>> for row in comparison.tables[0].rows:
        ...     print(row.method, row.summaries["val/loss"].mean)

    Args:
        runs: Runs, run folders, folders above them, or patterns.
        settings: Settings of `ptl-prefix compare`: `out`, `metric`, `include`, `examples`.

    Raises:
        ConfigError: With every mistake in the settings.
        ComparisonError: When the runs are not comparable.
    """
    paths = [str(run.path if isinstance(run, Run) else run) for run in runs]
    comparison, _ = compare_config(_checked("compare", settings, None).config, paths)
    return comparison


def advise(*comparisons: str | Path, **settings: Any) -> Advice:
    """Say what comparisons support, as `ptl-prefix advise` does: write a page, and return the advice.

    Example:
        >>> advice = ptl_prefix.advise("comparison", max_stored_parameters=100_000)
        >>> print(advice.tables[0].recommended)

    Args:
        comparisons: Folders that `compare` has written, or their `comparison.json`; none is the shipped comparison.
        settings: Settings of `ptl-prefix advise`, such as `metric` and the limits of the budget.

    Raises:
        ConfigError: With every mistake in the settings.
        ComparisonError: When a comparison cannot be read, or none is shipped.
    """
    advice, _ = advise_config(_checked("advise", settings, None).config, list(map(str, comparisons)))
    return advice


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _checked(verb: str, given: Mapping[str, Any], config_dir: str | Path | None) -> CheckedConfig:
    own = () if config_dir is None else (("--config-dir", str(config_dir)),)
    line = completed(CommandLine((), as_overrides(given), HydraFlags(own)))
    return compose_and_check(VERBS[verb], line.overrides, line.flags)
