"""The parts of `make bench`: which benchmarks are run, with which arguments, and how long each takes.

In: `parts.toml`. Out: `PARTS`, in the order of the page, each with the function that makes its section.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import run_sections, training_sections
from benchmarks.section import Report, Section

_PATIENCE = 2.0
"""A part is ended when it takes this many times as long as estimated."""
_SECTIONS: Mapping[str, Callable[[Report], Section]] = {
    "step_time": training_sections.step_time,
    "peft_trainer": training_sections.peft_trainer,
    "prefix_vs_peft": training_sections.prefix_vs_peft,
    "frozen_layers": training_sections.frozen_layers,
    "row_layouts": training_sections.row_layouts,
    "head_memory": training_sections.head_memory,
    "compiled_layers": training_sections.compiled_layers,
    "packed_sweep": run_sections.packed_sweep,
    "rung_ranking": run_sections.rung_ranking,
    "cold_start": run_sections.cold_start,
    "sweep_start": run_sections.sweep_start,
    "decode_time": run_sections.decode_time,
    "decode_test_split": run_sections.decode_test_split,
    "serving": run_sections.serving,
    "cost_scale": run_sections.cost_scale,
}


@dataclass(frozen=True)
class Run:
    """One way to run a part.

    Args:
        words: Arguments; `{data}` stands for the folder of real data.
        minutes: Estimated minutes on two cores.
    """

    words: str
    minutes: float

    @property
    def needs_data(self) -> bool:
        """Whether the arguments name the folder of real data."""
        return "{data}" in self.words

    @property
    def limit_s(self) -> float:
        """Seconds after which the part is ended."""
        return _PATIENCE * 60 * self.minutes


@dataclass(frozen=True, kw_only=True)
class Part:
    """A benchmark, as `make bench` runs it. Its argument `--json` is the path of its report.

    Args:
        module: Module in `benchmarks/`; also the name of its result.
        title: Heading of its section.
        about: What the table shows, in one or two sentences.
        whole: The whole run.
        quick: The quick run; `None` leaves the part out.
        section: What the page shows of a report.
    """

    module: str
    title: str
    about: str
    whole: Run
    quick: Run | None
    section: Callable[[Report], Section]

    def run(self, *, quick: bool) -> Run | None:
        """The whole or the quick run."""
        return self.quick if quick else self.whole


def names(parts: Sequence[Part]) -> str:
    """The parts' names in a sentence."""
    return ", ".join(part.module for part in parts)


def _part(module: str, about: Mapping[str, Any]) -> Part:
    runs = {name: Run(**about[name]) if name in about else None for name in ("whole", "quick")}
    return Part(**{**about, **runs, "module": module, "section": _SECTIONS[module]})


def _read(path: Path) -> tuple[Part, ...]:
    return tuple(_part(module, about) for module, about in tomllib.loads(path.read_text(encoding="utf-8")).items())


PARTS = _read(Path(__file__).with_name("parts.toml"))
"""In the order of the page."""
