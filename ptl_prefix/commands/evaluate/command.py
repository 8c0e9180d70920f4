"""`ptl-prefix evaluate`: decodes and scores a split; writes `predictions.jsonl` and `metrics.json`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.bundle_folder import folder_beside_bundle, run_of_bundle
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.evaluation_record import PREDICTIONS_FILE
from ptl_prefix.artifacts.jupyter_kernel import is_jupyter_kernel
from ptl_prefix.artifacts.manifest import settings_fingerprint
from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.artifacts.remote.address import is_remote_address
from ptl_prefix.artifacts.remote.open_run import open_run
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.config.bundle_inputs import changed_decoding, load_bundle_backbone
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.commands.evaluate.bertscore_setting import bertscore_problems
from ptl_prefix.commands.evaluate.tables import show_evaluation
from ptl_prefix.data.task import Task
from ptl_prefix.errors import ConfigError
from ptl_prefix.evaluation.evaluate import Evaluation, EvaluationJob, Measures, Subject, evaluate
from ptl_prefix.evaluation.metric import metric_name_mistakes
from ptl_prefix.evaluation.retention import read_retention_text, retention_problems
from ptl_prefix.methods.no_adaptation import NoAdaptation
from ptl_prefix.methods.restore import restore
from ptl_prefix.settings import defaults_of
from ptl_prefix.training.console import EscapingConsole
from ptl_prefix.training.notebook_output import LiveBar

_NUM_LOG_LINES = 10


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Evaluate one run, bundle or bare backbone.

    Args:
        config: See `conf/evaluate.yaml`.
        words: Must be empty.
        run_folder: Not used, because an evaluation is written to the run that it evaluates.
    """
    if words:
        raise ConfigError([f"`evaluate` takes no arguments, but got {' '.join(words)!r}; set run=<folder>."])
    evaluation = evaluate_config(config, EscapingConsole(stderr=True))
    show_evaluation(evaluation, EscapingConsole())


def evaluate_config(config: dict[str, Any], console: Console) -> Evaluation:
    """Run an evaluation, resume it, or read the finished one.

    Args:
        config: Checked config.
        console: Console for progress and notes.
    """
    task = _task(config)
    metrics = config["metrics"] or task.metrics
    bertscore = bertscore_problems(config["bertscore_model"], metrics)
    if problems := [*task.problems(), *_split_problems(config["split"], task), *bertscore]:
        raise ConfigError(problems)
    is_bare = config["run"] is None and config["bundle"] is None
    subject, decoding = _bare(config, task) if is_bare else _adapted(config)
    with _progress(console) as on_progress:
        job = EvaluationJob(
            subject=subject,
            task=task,
            split=config["split"],
            decoding=decoding,
            measures=Measures(
                metrics=metrics,
                resamples=config["resamples"],
                seed=config["resample_seed"],
                likelihood=config["likelihood"],
                retention=read_retention_text(config["retention_file"]) if config["retention"] else None,
                settings={"bertscore": {"model": config["bertscore_model"]}},
            ),
            num_examples=config["num_examples"],
            batch_size=config["batch_size"],
        )
        evaluation = evaluate(job, _out_folder(config, task), on_progress=on_progress)
    if evaluation.was_finished:
        console.print(
            Text(
                "This evaluation exists already, and a finished evaluation is never changed. To compute other metrics "
                f"of its outputs: {printed_command('score', evaluation.folder / PREDICTIONS_FILE)}"
            ),
            soft_wrap=True,
        )
    for note in (*task.notes, *_prompt_notes(subject, task)):
        console.print(Text(f"the task {task.name}: {note}"), soft_wrap=True)
    return evaluation


def cross_problems(config: Mapping[str, Any], built: Mapping[str, Any]) -> list[str]:
    """Return problems that involve several settings."""
    given = [key for key in ("run", "bundle", "backbone") if config.get(key) is not None]
    mistakes = []
    if not given:
        mistakes.append("One of `run`, `bundle` and `backbone` must be set, but none is.")
    elif "task" not in config and "run" not in given and _run_of(config) is None:
        mistakes.append("`task` must be set if no run defines it, but is not; add task=<name>.")
    if "backbone" in given and "backbone" in built:
        mistakes += built["backbone"].weight_problems()
    mistakes += retention_problems(bool(config.get("retention")), config.get("retention_file"))
    return mistakes + metric_name_mistakes(config.get("metrics") or (), "metrics")


def _run_of(config: Mapping[str, Any]) -> RunFolder | None:
    """The evaluated run, or the run that contains the bundle."""
    if config.get("bundle"):
        return run_of_bundle(config["bundle"])
    if is_remote_address(config.get("run")):
        return open_run(config["run"])
    run = RunFolder(config["run"]) if config.get("run") else None
    return run if run is not None and run.config.is_file() else None


def _task(config: dict[str, Any]) -> Task:
    folder = _run_of(config)
    task: Task = build(config["task"] if "task" in config or folder is None else read_config(folder, ("task",))["task"])
    return task


def _split_problems(split: str, task: Task) -> list[str]:
    if split in task.splits:
        return []
    return [f"`split` must be a split of {task.name} ({', '.join(task.splits)}), but is {split}."]


def _adapted(config: dict[str, Any]) -> tuple[Subject, Decoding]:
    """The bundle of a run, or a separate one, with its decoding settings."""
    bundle = read_bundle(config["run"] or config["bundle"])
    decoding = changed_decoding(bundle.manifest.decoding, config)
    backbone = load_bundle_backbone(bundle.manifest, config)
    subject = Subject(
        backbone=backbone,
        method=restore(backbone, bundle).method,
        prompter=backbone.prompter(bundle.manifest.prompt),
        adaptation=bundle.manifest.tensors_sha256,
        method_settings=settings_fingerprint(bundle.manifest),
        origin=bundle.origin,
    )
    return subject, decoding


def _prompt_notes(subject: Subject, task: Task) -> list[str]:
    """A sentence if the bundle's prompt format, which is used, is not the task's."""
    used = subject.prompter.prompt_format
    if used.agrees_with(task.prompt):
        return []
    if used.chat is not None and task.prompt.chat is not None and used.chat.name != task.prompt.chat.name:
        return [
            f"conversations have the bundle's chat template, {used.chat.name}, not the task's, {task.prompt.chat.name}"
        ]
    return [f"prompts have the bundle's format, between={used.between!r}, and not the task's, {task.prompt.between!r}"]


def _bare(config: dict[str, Any], task: Task) -> tuple[Subject, Decoding]:
    """A backbone without a method; greedy decoding is the default."""
    decoding = changed_decoding(Decoding(**defaults_of("generation/greedy")), config)
    own = {"dtype": config["dtype"], "device": None if config["device"] == "auto" else config["device"]}
    spec = build(config["backbone"] | {key: value for key, value in own.items() if value is not None})
    backbone = spec.load()
    try:
        prompter = backbone.prompter(task.prompt)
    except ValueError as error:
        raise ConfigError([f"`task`: {error}"]) from error
    method = NoAdaptation().attach(backbone)
    subject = Subject(backbone=backbone, method=method, prompter=prompter, adaptation=None)
    return subject, decoding


def _out_folder(config: dict[str, Any], task: Task) -> Path:
    """The output folder: `out`, or a folder in the run, next to a bundle without a run, or for the bare backbone."""
    if config["out"] is not None:
        return Path(config["out"])
    given = config["run"] or config["bundle"]
    if is_remote_address(given):
        return folder_beside_bundle(given, "evaluation")
    if (folder := _run_of(config)) is not None:
        return folder.evaluation
    if config["bundle"] is not None:
        return folder_beside_bundle(config["bundle"], "evaluation")
    return Path("outputs", task.name, config["backbone"]["name"], "none", "evaluation")


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal or in a notebook; otherwise print a few lines."""
    if is_jupyter_kernel() and not console.quiet:
        yield LiveBar("decode").move
        return
    if not console.is_terminal:
        shown = -1

        def line(done: int, total: int) -> None:
            nonlocal shown
            if (share := done * _NUM_LOG_LINES // max(total, 1)) > shown:
                shown = share
                console.print(f"decoded {done} of {total}", highlight=False)

        yield line
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(TextColumn("[bold]decode"), *columns, console=console) as bar:
        shown_bar = bar.add_task("", total=None)
        yield lambda done, total: bar.update(shown_bar, completed=done, total=total)
