"""The settings at the root of `conf/mirror.yaml`, with types and ranges."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from ptl_prefix.artifacts.remote.outputs_url import outputs_url_problem


@dataclass(frozen=True, kw_only=True)
class MirrorSettings:
    """The keys at the root of `conf/mirror.yaml`.

    Args:
        outputs_url: Address below which run folders are mirrored; `None` is that of each run's config.
        out: New folder into which one mirrored run is fetched; `None` fetches nothing.
        clean: Whether the objects of mirrored runs that no manifest names are removed.
        older_than_h: Age in hours that such an object must have.
    """

    outputs_url: str | None
    out: str | None
    clean: bool
    older_than_h: Annotated[float, Ge(0)]

    def problems(self) -> list[str]:
        """Two actions at once, a folder that exists, or a store that cannot be written."""
        problems = []
        if (self.outputs_url is not None) + (self.out is not None) + self.clean > 1:
            problems.append("Only one of `outputs_url`, `out` and `clean` can be given.")
        if self.out is not None and Path(self.out).exists():
            problems.append(f"`out` must be a new folder, but {self.out} exists.")
        if (problem := outputs_url_problem(self.outputs_url)) is not None:
            problems.append(problem)
        return problems
