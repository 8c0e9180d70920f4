"""`ptl-prefix distill`: a document becomes a prefix that answers questions on it.

In: a checked config. Out: the folder of a self-study in the cache, a run folder with the bundle, and, with a file of
questions, a table of the prefix beside its controls. Each stage is resumed: the self-study by the same command, the
others by `resume=`. A dry run prints all of that and does none of it.
"""

import gc
import importlib
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ptl_prefix.artifacts.bundle_folder import find_bundle
from ptl_prefix.artifacts.manifest import read_manifest
from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.artifacts.remote.mirror_run import mirror_run
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.artifacts.self_study import read_self_study
from ptl_prefix.commands.config.build_plan import backbone_node, build_plan, read_run_config
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.distill.distill_file import DistillFile, read_distill_file, write_distill_file
from ptl_prefix.commands.distill.dry_run import show_dry_run
from ptl_prefix.commands.distill.problems import distill_problems
from ptl_prefix.commands.distill.training_config import training_config
from ptl_prefix.data.encoding import cache_folder
from ptl_prefix.distillation.self_study import make_self_study
from ptl_prefix.errors import ConfigError, PtlPrefixError
from ptl_prefix.settings import defaults_of
from ptl_prefix.training.console import EscapingConsole
from ptl_prefix.training.rank_environment import find_rank_environment
from ptl_prefix.training.stage_progress import Advance, stage_progress

_CACHE = "self_studies"


def run(config: dict[str, Any], arguments: tuple[str, ...], run_folder: Path) -> None:
    """Make a self-study, train a prefix on it, and ask questions.

    Args:
        config: Checked config.
        arguments: Arguments of the command line; must be empty.
        run_folder: Folder of the run.
    """
    if arguments:
        raise ConfigError(
            [f"`distill` takes no arguments, but got {' '.join(arguments)!r}; settings are written key=value."]
        )
    distill_config(config, RunFolder(run_folder), EscapingConsole(stderr=True))


def distill_config(config: Mapping[str, Any], folder: RunFolder, console: Console) -> None:
    """Do all stages of a new run, or those that are left of an old one.

    Args:
        config: Checked config.
        folder: Folder of a new run.
        console: Console for progress.
    """
    if find_rank_environment() is not None:
        raise ConfigError(
            ["`distill` must be started without torchrun or srun: it starts the processes of a training."]
        )
    cache = cache_folder(config["data"]["cache_dir"]) / _CACHE
    if config["resume"] is not None:
        folder = _verb("train").folder_to_resume(config["resume"])
        asked = read_distill_file(folder)
        _train(lambda train: train.resume_run(folder, console))
    elif config["dry_run"]:
        show_dry_run(config, folder, cache, EscapingConsole())
        return
    else:
        study = _self_study(config, cache, console)
        asked = DistillFile(
            document=os.path.abspath(config["document"]),
            questions=None if config["questions"] is None else os.path.abspath(config["questions"]),
            self_study=os.path.abspath(study),
        )
        plan = training_config(config, study)
        if problems := build_plan(plan).problems():
            raise ConfigError(problems)
        folder.path.mkdir(parents=True, exist_ok=True)
        write_distill_file(folder, asked)
        _train(lambda train: train.train_config(plan, folder, console, given=()))
    if folder.record.exists() and read_record(folder.record).status == "finished":
        _finish(asked, folder, console)
        _mirror_answers(folder, console)


def _train(how: Callable[[Any], None]) -> None:
    """Train with the module of `ptl-prefix train`; a mirror that is behind is left to the end."""
    train = _verb("train")
    try:
        how(train)
    except SystemExit as end:
        if end.code != train.MIRROR_BEHIND:
            raise


def _mirror_answers(folder: RunFolder, console: Console) -> None:
    """Mirror what was asked at the end, and what an earlier attempt could not send."""
    if read_run_config(folder).get("outputs_url") is None:
        return
    try:
        mirror_run(folder)
    except PtlPrefixError as error:
        again = printed_command("mirror", folder.path)
        text = f"The mirror is behind: {error} Everything is in the run folder; repeat the upload with: {again}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
        raise SystemExit(_verb("train").MIRROR_BEHIND) from error


def cross_problems(config: Mapping[str, Any], built: Mapping[str, Any]) -> list[str]:
    """Problems that no node of a config shows by itself.

    Args:
        config: Config as plain values.
        built: Objects of the nodes that have no problem of their own, by the nodes' keys.
    """
    return [] if config.get("resume") is not None else distill_problems(config, built)


def _self_study(config: Mapping[str, Any], cache: Path, console: Console) -> Path:
    """The folder of the self-study, made or found."""

    def notify(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    backbone = build(backbone_node(config)).load()
    with ExitStack() as opened:
        advances: list[Advance] = []
        before = [0]

        def on_progress(done: int, total: int) -> None:
            if not advances:
                advances.append(
                    opened.enter_context(
                        stage_progress(console, "asking and answering, conversation", total, shown=not console.quiet)
                    )
                )
            advances[0](done - before[0])
            before[0] = done

        folder = make_self_study(
            config["document"],
            backbone,
            build(config["self_study"]),
            cache=cache,
            notify=notify,
            on_progress=on_progress,
        )
    del backbone
    gc.collect()  # the training loads it again, with its own settings
    notify(f"self-study: {folder}")
    if config["update"] is not None:
        notify(update_note(config["update"], folder))
    return folder


def update_note(update: str, study: Path) -> str:
    """Whether a bundle is of another version of the document than a self-study."""
    made_of = read_manifest(find_bundle(update)).document_sha256
    if made_of == read_self_study(study).facts.document_sha256:
        return f"{update} was made from this very document; its prefix is trained further."
    return f"{update} was made from another version of the document; its prefix is trained further on this one."


def _finish(asked: DistillFile, folder: RunFolder, console: Console) -> None:
    """Ask the questions, if there are any, and print the paths."""
    if asked.questions is None:
        console.print(
            "No questions were asked; give a file of questions to see the prefix beside its controls: "
            f"ptl-prefix examine {folder.path} document={asked.document} questions=<file>",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    else:
        _examine(asked, folder)
    if not console.quiet:
        EscapingConsole().print(Text(f"self-study: {asked.self_study}"), soft_wrap=True)


def _examine(asked: DistillFile, folder: RunFolder) -> None:
    """Ask the questions of the bundle and its controls, as `ptl-prefix examine` does."""
    config = {
        **defaults_of("examine"),
        "backbone": None,
        "document": asked.document,
        "questions": asked.questions,
    }
    _verb("examine").run(config, (str(folder.path),), folder.path)


def _verb(name: str) -> Any:
    """The module of another verb, whose functions do what the command line does."""
    return importlib.import_module(VERBS[name].module)
