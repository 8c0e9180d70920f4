"""The sections of `ptl-prefix <verb> --help` below its summary.

In: a verb, and the files of conf/. Out: examples, groups with their choices, and the settings of the verb with the
comments of its YAML. They are read from the files, so that the help is never out of date and imports nothing heavy.
"""

import re

import click

from ptl_prefix import settings
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.verb import Verb

FLAGS = (
    ("-m, --multirun", "run every combination of comma-separated values"),
    ("-c, --cfg job", "print the composed config and stop; with --resolve, its interpolations resolved"),
    (
        "-i, --info [TOPIC]",
        "print how the config is composed: all, config, defaults, defaults-tree, plugins or searchpath",
    ),
    ("-cd, --config-dir FOLDER", "a folder of your own configs, in addition to the package's"),
    ("-cn, --config-name NAME", "use another primary config"),
    ("--hydra-help", "print Hydra's own help"),
    ("--", "treat what follows as arguments, even with an equal sign in it"),
)


def write_verb_help(verb: Verb, formatter: click.HelpFormatter) -> None:
    """Write the sections below the usage and summary of a verb."""
    _section(formatter, "Examples", verb.examples)
    _section(formatter, "Groups (GROUP=CHOICE selects, GROUP.KEY=VALUE sets)", _groups(verb))
    _section(formatter, "Settings", _root_settings(verb))
    _section(formatter, "Flags", FLAGS)


def _section(formatter: click.HelpFormatter, title: str, rows: tuple[tuple[str, str], ...]) -> None:
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows, col_max=40)


def _groups(verb: Verb) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"{group}={choice or 'null'}", catalog.offered(group, separator=" | "))
        for group, choice in catalog.groups_of(verb.name).items()
    )


def _root_settings(verb: Verb) -> tuple[tuple[str, str], ...]:
    """The keys at the root of the verb's YAML, with their comments."""
    path = settings.conf_dir() / f"{verb.name}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = [re.fullmatch(r"(\w+): *(\S.*?) *(?:# *(.*))?", line) for line in lines]
    return tuple((f"{match[1]}={match[2]}", match[3] or "") for match in found if match)
