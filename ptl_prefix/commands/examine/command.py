"""`ptl-prefix examine`: asks questions about a document, of bundles and of their controls."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptl_prefix.commands.document_examination import examine
from ptl_prefix.evaluation.retention import retention_problems


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Examine bundles, or a bare backbone.

    Args:
        config: See `conf/examine.yaml`.
        words: Bundles, run folders or addresses on the hub.
        run_folder: Not used, because an examination is not a run.
    """
    examine(config, words)


def cross_problems(config: Mapping[str, Any], built: Mapping[str, Any]) -> list[str]:
    """A file of retention that cannot be read, and weights that are missing."""
    problems = retention_problems(bool(config.get("retention")), config.get("retention_file"))
    return problems + (built["backbone"].weight_problems() if "backbone" in built else [])
