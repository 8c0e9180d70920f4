"""A study as the command line describes it, checked and not yet created.

In: nothing. Out: `ParsedStudy`, which `parse_study` makes and `study_folder` creates a study from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptl_prefix.sweeping.study_spec import StudySpec


@dataclass(frozen=True)
class ParsedStudy:
    """A checked specification, and where its study is stored.

    Args:
        spec: The specification.
        folder: The study's folder.
        storage: URL of the storage; `None` is a journal in the folder.
        first_config: Config of the first point; what all trials share can be read from it.
        hydra_overrides: Overrides of `hydra` alone, which make Hydra use our sweeper and its settings.
        notes: Sentences that are shown before the study starts.
    """

    spec: StudySpec
    folder: Path
    storage: str | None
    first_config: Mapping[str, Any]
    hydra_overrides: tuple[str, ...]
    notes: tuple[str, ...] = ()
