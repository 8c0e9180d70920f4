"""`ptl-prefix inspect`: what a trained prefix does, as tables, a JSON file and a picture."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.inspection import Inspection, write_inspection
from ptl_prefix.artifacts.manifest import Manifest
from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.config.bundle_inputs import bundle_folder, load_bundle_backbone, source_lines
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.commands.inspect.tables import show_inspection
from ptl_prefix.errors import ConfigError, DataError, PtlPrefixError
from ptl_prefix.evaluation.evaluate import EvaluationSettings
from ptl_prefix.evaluation.inspection import InspectionSettings, inspect_prefix, require_prefix
from ptl_prefix.methods.restore import restore
from ptl_prefix.reporting.inspection_figure import inspection_png

_CLOSENESS = ("batch_size", "max_new_tokens", "dead_below", "layer", "top_k", "max_words")
_PROMPTS = (
    "The weather in London was",
    "In 1847 a school was built near the river, and",
    "name : The Old Mill | kind : pub | city : Rome",
    "She opened the door, looked at the letter on the table, and said:",
    "Water boils at 100 degrees.",
)
"""Texts that need no data, for a bundle whose run is not at hand."""


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Look at one bundle.

    Args:
        config: Which bundle, how closely to look, and where to write.
        words: Sources to look over.
        run_folder: Not used; looking is no run.
    """
    folder = bundle_folder(Path(config["bundle"]))
    bundle = read_bundle(folder)
    require_prefix(bundle.manifest.method)
    texts, texts_from = _texts(config, words, folder, bundle.manifest)
    settings = InspectionSettings(**{name: config[name] for name in _CLOSENESS})
    adaptation = restore(load_bundle_backbone(bundle.manifest, config), bundle)
    try:
        found = inspect_prefix(adaptation, texts, settings, bundle=str(folder), texts_from=texts_from)
    except ValueError as error:
        raise ConfigError([str(error)]) from error  # a layer without a prefix
    console = Console()
    show_inspection(found, console)
    for label, path in _written(found, _out_folder(config["out"], folder)):
        console.print(Text(f"{label}: {path}"), soft_wrap=True)


def _out_folder(wanted: str | None, bundle: Path) -> Path:
    """Where to write: as told, or in the bundle's run, or beside a bundle that lies alone."""
    if wanted is not None:
        return Path(wanted)
    run = RunFolder(bundle.parent)
    return run.path / "inspection" if run.config.is_file() else bundle.with_name(f"{bundle.name}-inspection")


def _written(found: Inspection, out: Path) -> list[tuple[str, Path]]:
    numbers, picture = out / "inspection.json", out / "inspection.png"
    try:
        write_inspection(numbers, found)
        write_atomically(picture, inspection_png(found))
    except OSError as error:
        raise DataError(
            f"`out` must be a folder that can be written, but '{out}' cannot ({error.strerror}); name another."
        ) from error
    return [("numbers", numbers), ("picture", picture)]


def _texts(config: dict[str, Any], words: tuple[str, ...], bundle: Path, manifest: Manifest) -> tuple[list[str], str]:
    """The sources to look over, and where they are from."""
    given = ["the command line"] * bool(words) + [str(config["input"])] * (config["input"] is not None)
    if given:
        return [*words, *source_lines(config["input"])], f"from {' and '.join(given)}"
    run = RunFolder(bundle.parent)
    if not run.config.is_file():
        return list(_PROMPTS), "built in, as the bundle lies in no run's folder"
    try:
        return _validation_sources(run, manifest, config["num_examples"])
    except PtlPrefixError as error:
        return list(_PROMPTS), f"built in, as the data of the bundle's run cannot be read: {error}"


def _validation_sources(run: RunFolder, manifest: Manifest, number: int) -> tuple[list[str], str]:
    """Sources of the task that the bundle was trained for, evenly spread over a split it was not trained on."""
    task = build(read_config(run)["task"])
    if problems := task.problems():
        raise DataError(" ".join(problems))
    split = next(name for name in ("validation", "test", "train") if name in task.splits)
    rows = EvaluationSettings(num_examples=number, compare_bare=False).sample(task.examples(split))
    return [row["source"] for row in rows], f"from the {split} split of {manifest.task}"
