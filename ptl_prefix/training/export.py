"""Exports a trained method as a bundle, or merged into the backbone's weights.

In: a method attached to its backbone, and a checkpoint. Out: a bundle; or a model that needs no bundle, if the method
changes weights.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from ptl_prefix.artifacts.atomic import write_folder_atomically
from ptl_prefix.artifacts.bundle import Bundle, BundleContents, write_bundle
from ptl_prefix.artifacts.checkpoint_file import read_checkpoint
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.routing_facts import RoutingFacts
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.backbones.spec import save_backbone
from ptl_prefix.data.task import Task
from ptl_prefix.errors import RunError
from ptl_prefix.methods.method import Method

_NO_TASK = "unknown"
"""The task of a method that was trained elsewhere."""


def load_trained_state(method: Method, checkpoint: Path) -> None:
    """Load a checkpoint's parameters into a method.

    Raises:
        RunError: If the checkpoint cannot be read, or is of another method.
    """
    method.load_trainable_parameters(read_checkpoint(checkpoint)["state_dict"])


def export_bundle(
    folder: Path,
    *,
    backbone: Backbone,
    method: Method,
    task: Task | None,
    prompter: Prompter,
    decoding: Decoding,
    metrics: Mapping[str, float],
    routing: RoutingFacts | None = None,
) -> Bundle:
    """Write the bundle of a method in its current state, atomically.

    Args:
        folder: Output folder; an older bundle in it is replaced.
        backbone: Backbone of the method.
        method: Method, attached to the backbone.
        task: Task of the training; `None` for a method that was trained elsewhere.
        prompter: Prompter of the training.
        decoding: Decoding settings for users of the bundle.
        metrics: Metrics of the training.
        routing: What a server needs to recognise the task's texts; `None` leaves it out.
    """
    settings, tensors = method.export()
    contents = BundleContents(
        tensors=tensors,
        method=method.kind,
        settings=settings,
        task=_NO_TASK if task is None else task.name,
        task_version=_NO_TASK if task is None else task.version,
        prompt=prompter.prompt_format,
        stop_ids=prompter.stop_ids,
        decoding=decoding,
        label_set=None if task is None else task.label_set,
        metrics=metrics,
        geometry={site: dataclasses.asdict(geometry) for site, geometry in backbone.geometry.items()},
        position_law=method.position_law,
        dtype=str(backbone.dtype).removeprefix("torch."),
        backbone=backbone.identity,
        routing=routing,
        document_sha256=None if task is None else task.document_sha256,
        document_path=None if task is None else task.document_path,
    )
    return write_bundle(folder, contents)


def export_merged(folder: Path, *, backbone: Backbone, method: Method, replace: bool = False) -> None:
    """Write the backbone with the method merged into its weights, atomically; the backbone itself stays unchanged.

    The weights have the backbone's dtype: in bfloat16, small changes are rounded.

    Args:
        folder: Output folder.
        backbone: Backbone.
        method: Method, attached to the backbone.
        replace: Whether an existing model in the folder is replaced.

    Raises:
        RunError: If `folder` is not empty and `replace` is false.
        ValueError: If the method does not change weights.
    """
    if not replace and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"A merged model must be written to a new folder, but '{folder}' exists; choose another.")
    with method.merged(), write_folder_atomically(folder) as unfinished:
        save_backbone(backbone, unfinished)
