"""Writes a document's report: its numbers and its figure."""

from pathlib import Path

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.document_report import FIGURE_FILE, REPORT_FILE, DocumentReport, write_document_report
from ptl_prefix.errors import DataError
from ptl_prefix.reporting.document_figure import render_document


def write_report(report: DocumentReport, out: Path) -> list[tuple[str, Path]]:
    """Write `document.json` and `document.png`, in place of earlier ones.

    Returns:
        What each file holds, and its path.

    Raises:
        DataError: The folder is not writable.
    """
    numbers, figure = out / REPORT_FILE, out / FIGURE_FILE
    try:
        write_document_report(numbers, report)
        write_atomically(figure, render_document(report))
    except OSError as error:
        raise DataError(f"`out` must be a writable folder, but '{out}' is not ({error.strerror}).") from error
    return [("numbers", numbers), ("figure", figure)]
