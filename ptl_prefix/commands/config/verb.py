"""What the command line knows of one verb.

In: nothing. Out: `Verb`, whose instances `verbs.py` lists. The body of a verb is a module of its own, imported when it
runs: this file imports nothing heavy.
"""

from dataclasses import dataclass
from typing import Any

_MODULES = {
    "export": "bundle.export",
    "generate": "bundle.generate",
    "import": "bundle.import_adapter",
    "join": "bundle.join",
    "push": "bundle.push",
    "runs": "compare.runs",
    "score": "evaluate.score",
}
"""Verbs whose package is shared; every other verb has a package of its own name with a module `command`."""


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of the command line.

    Args:
        name: Word that the user types; also the name of the verb's config.
        summary: One line for `--help`.
        settings: Dataclass of the keys at the root of the verb's config.
        arguments: Arguments as `--help` shows them; empty if the verb takes none.
        examples: Command lines that work, each with a description.
        folder_key: Setting that names an existing run folder to work in; it is given alone, as the folder has a config.
        beside_folder: Settings that may be given together with `folder_key`.
        study_module: Module whose `run_as_study` runs the jobs of `-m`; `None` leaves them to Hydra's sweepers.
    """

    name: str
    summary: str
    settings: type[Any]
    examples: tuple[tuple[str, str], ...]
    arguments: str = ""
    folder_key: str | None = None
    beside_folder: tuple[str, ...] = ()
    study_module: str | None = None

    @property
    def module(self) -> str:
        """Name of the module that holds the verb's `run(config, arguments, run_folder)`."""
        return f"ptl_prefix.commands.{_MODULES.get(self.name, f'{self.name}.command')}"
