"""`ptl-prefix distill dry_run=true`: what the stages would do, before anything is loaded or written.

In: a checked config. Out: a table of the self-study, the training and the files, and the config. Of the backbone only
config and tokenizer are read.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.document_text import read_document, text_sha256
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.commands.config.build_plan import backbone_node
from ptl_prefix.commands.config.instantiate import build, target_values
from ptl_prefix.commands.distill.training_config import method_node
from ptl_prefix.data.question_file import read_questions
from ptl_prefix.distillation.estimate import StudyEstimate, estimate_study
from ptl_prefix.distillation.own_questions import read_questions as read_own_questions
from ptl_prefix.methods.start_inputs import StartInputs


def show_dry_run(config: Mapping[str, Any], folder: RunFolder, cache: Path, console: Console) -> None:
    """Print what would be done.

    Args:
        config: Checked config.
        folder: Folder of the run.
        cache: Folder in which self-studies lie.
        console: Console for the table.
    """
    text, settings = read_document(config["document"]), build(config["self_study"])
    backbone = build(backbone_node(config)).load_shape()
    own = [] if settings.questions is None else read_own_questions(settings.questions)
    study = estimate_study(text, backbone, settings, own)
    table = Table(title="Dry run: nothing was loaded, nothing is written", title_justify="left", show_header=False)
    rows = {
        "document": f"{config['document']}, {study.document_tokens:,} tokens, sha256 {text_sha256(text)[:16]}…",
        **_study_rows(study, settings.attempts),
        **_training_rows(config, study, text, backbone),
        "questions at the end": _questions(config["questions"]),
        "self-study": f"{cache}/<hash of the document, the backbone and the settings>",
        "run": str(folder.path),
        "bundle": str(folder.bundle),
    }
    for name, value in rows.items():
        table.add_row(name, Text(escape_controls(value)))
    console.print(table)
    for note in study.notes:
        console.print(Text(note), soft_wrap=True)
    resolved = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    console.print(Text(f"\n{resolved}".rstrip()), soft_wrap=True)


def _study_rows(study: StudyEstimate, attempts: int) -> dict[str, str]:
    kinds = ", ".join(f"{number} {kind}" for kind, number in study.kinds.items())
    return {
        "chunks": f"{study.num_chunks:,}, of {study.mean_chunk_tokens:,.0f} tokens on average",
        "conversations": f"{study.num_conversations:,} ({kinds}), of which {study.num_validation:,} are held out",
        "coverage": f"{study.coverage:.1f}",
        "tokens read": f"at most {study.read_tokens:,}",
        "tokens generated": f"at most {study.written_tokens:,}; what is dropped is tried up to {attempts} times",
    }


def _training_rows(config: Mapping[str, Any], study: StudyEstimate, text: str, backbone: Any) -> dict[str, str]:
    """Parameters, steps and rows of the training; steps of `max_epochs` are counted on planned conversations."""
    trainer, method = target_values(config["trainer"]), build(method_node(config))
    method.provide_start_inputs(StartInputs(read_document=lambda: text, gives_rows=True))
    if method.has_open_settings:
        chosen = method.choose_settings(backbone)
        method = build({**method_node(config), **chosen})
        method.provide_start_inputs(StartInputs(read_document=lambda: text, gives_rows=True))
    method.attach(backbone)
    try:
        trained, stored = method.num_trainable, method.num_stored
    finally:
        method.detach()
    rows = config["data"]["batch_size"] * int(trainer.get("accumulate_grad_batches") or 1)
    pairs = study.num_conversations - study.num_validation
    steps = _steps(trainer, math.ceil(pairs / rows))
    replayed = "" if config["update"] is None else f", and conversations of {config['update']}"
    return {
        "training pairs": f"{pairs:,}{replayed}",
        "trainable parameters": f"{trained:,}",
        "stored parameters": f"{stored:,}",
        "steps": f"{steps:,} of {rows} rows ({steps * rows / max(pairs, 1):.2f} epochs)",
        "loss": config["loss"],
    }


def _steps(trainer: Mapping[str, Any], steps_per_epoch: int) -> int:
    """The steps of the run, from `max_steps` or `max_epochs`, whichever ends first."""
    steps, epochs = int(trainer.get("max_steps", -1)), trainer.get("max_epochs")
    limits = [] if steps == -1 else [steps]
    if epochs is not None and epochs != -1:
        limits.append(epochs * steps_per_epoch)
    return min(limits)


def _questions(path: str | None) -> str:
    if path is None:
        return "none"
    return f"{len(read_questions(path).questions):,}, of the prefix and its controls"
