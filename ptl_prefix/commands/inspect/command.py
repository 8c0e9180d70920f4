"""`ptl-prefix inspect`: analyses a trained prefix; prints tables and writes a JSON file and a figure."""

from pathlib import Path
from typing import Any

from rich.text import Text

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.bundle_folder import output_folder, run_of_bundle
from ptl_prefix.artifacts.document_text import document_state, stale_note
from ptl_prefix.artifacts.inspection import Inspection, write_inspection
from ptl_prefix.artifacts.manifest import Manifest
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.commands.config.bundle_inputs import load_bundle_backbone, rendered_sources, source_lines
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.commands.inspect.tables import show_inspection
from ptl_prefix.data.task import Split
from ptl_prefix.errors import ConfigError, DataError, PtlPrefixError
from ptl_prefix.evaluation.evaluate import sample
from ptl_prefix.evaluation.inspection import InspectionSettings, inspect_prefix, require_prefix
from ptl_prefix.methods.restore import restore
from ptl_prefix.reporting.inspection_figure import render_inspection
from ptl_prefix.training.console import EscapingConsole

_SETTINGS = ("batch_size", "max_new_tokens", "dead_below", "layer", "top_k", "max_words")
_PROMPTS = (
    "The weather in London was",
    "In 1847 a school was built near the river, and",
    "name : The Old Mill | kind : pub | city : Rome",
    "She opened the door, looked at the letter on the table, and said:",
    "Water boils at 100 degrees.",
)
"""Default sources for a bundle whose run or data is not available."""


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Inspect one bundle.

    Args:
        config: See `conf/inspect.yaml`.
        words: Sources that the backbone reads.
        run_folder: Not used, because an inspection is not a run.
    """
    address = config["bundle"] or config["run"]
    bundle = read_bundle(address)
    require_prefix(bundle.manifest.method)
    texts, texts_from = _texts(config, words, run_of_bundle(address), bundle.manifest)
    settings = InspectionSettings(**{name: config[name] for name in _SETTINGS})
    adaptation = restore(load_bundle_backbone(bundle.manifest, config), bundle)
    if words or config["input"] is not None:
        texts = rendered_sources(adaptation, texts)
    try:
        inspection = inspect_prefix(adaptation, texts, settings, bundle=bundle.origin, texts_from=texts_from)
    except ValueError as error:
        raise ConfigError([str(error)]) from error  # the layer has no prefix
    console = EscapingConsole()
    show_inspection(inspection, console)
    if bundle.manifest.document_sha256 is not None:
        console.print(Text(f"document: {_document(bundle.manifest)}"), soft_wrap=True)
    for label, path in _write(inspection, _out_folder(config["out"], address)):
        console.print(Text(f"{label}: {path}"), soft_wrap=True)


def _document(manifest: Manifest) -> str:
    """The document that a bundle was made of, and whether its file still has that text."""
    path, state = manifest.document_path, document_state(manifest)
    found = f"{state} in {escape_controls(path)}" if path is not None else "of an unknown file"
    advice = f"; {escape_controls(note)}" if (note := stale_note(manifest)) is not None else ""
    return f"sha256 {manifest.document_sha256}, {found}{advice}"


def _out_folder(chosen: str | None, address: str) -> Path:
    """The output folder: the chosen one, or a folder in the bundle's run, or next to a bundle without a run."""
    if chosen is not None:
        return Path(chosen)
    return output_folder(address, "inspection")


def _write(inspection: Inspection, out: Path) -> list[tuple[str, Path]]:
    numbers, figure = out / "inspection.json", out / "inspection.png"
    try:
        write_inspection(numbers, inspection)
        write_atomically(figure, render_inspection(inspection))
    except OSError as error:
        raise DataError(f"`out` must be a writable folder, but '{out}' is not ({error.strerror}).") from error
    return [("numbers", numbers), ("figure", figure)]


def _texts(
    config: dict[str, Any], words: tuple[str, ...], run: RunFolder | None, manifest: Manifest
) -> tuple[list[str], str]:
    """The sources, and a phrase that names their origin."""
    given = ["the command line"] * bool(words) + [str(config["input"])] * (config["input"] is not None)
    if given:
        return [*words, *source_lines(config["input"])], f"from {' and '.join(given)}"
    if run is None:
        return list(_PROMPTS), "built in, because the bundle is in no run folder"
    try:
        return _validation_sources(run, manifest, config["num_examples"])
    except PtlPrefixError as error:
        return list(_PROMPTS), f"built in, because the data of the bundle's run is not readable: {error}"


def _validation_sources(run: RunFolder, manifest: Manifest, count: int) -> tuple[list[str], str]:
    """Sources of the bundle's task, evenly spread over a split that it was not trained on, if there is one."""
    task = build(read_config(run, ("task",))["task"])
    if problems := task.problems():
        raise DataError(" ".join(problems))
    preferred: tuple[Split, ...] = ("validation", "test", "train")
    split = next(name for name in preferred if name in task.splits)
    return [row["source"] for row in sample(task, split, count).rows], f"from the {split} split of {manifest.task}"
