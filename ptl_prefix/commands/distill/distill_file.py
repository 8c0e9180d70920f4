"""What the later stages of `ptl-prefix distill` need when a run is resumed: `distill.json` in the run folder."""

import json
from dataclasses import asdict, dataclass

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import RunError

_FILE = "distill.json"


@dataclass(frozen=True, kw_only=True)
class DistillFile:
    """The inputs of a document's run besides its config.

    Args:
        document: Path of the document.
        questions: Path of the questions that are asked at the end; `None` asks none.
        self_study: Folder of the self-study.
    """

    document: str
    questions: str | None
    self_study: str


def write_distill_file(folder: RunFolder, asked: DistillFile) -> None:
    """Write the file, with absolute paths."""
    write_atomically(folder.path / _FILE, json.dumps(asdict(asked), indent=1).encode())


def read_distill_file(folder: RunFolder) -> DistillFile:
    """Read the file of a run.

    Raises:
        RunError: The run is none of `ptl-prefix distill`.
    """
    path = folder.path / _FILE
    try:
        return DistillFile(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"A run to resume must be one of `ptl-prefix distill`, but {path} cannot be read; resume a training with "
            f"ptl-prefix train resume={folder.path}"
        ) from error
