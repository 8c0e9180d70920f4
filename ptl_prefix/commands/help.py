"""What `ptl-prefix <verb> --help` says beyond its first line.

In: a verb, and the files of conf/. Out: examples, the groups with their choices, and the verb's own settings as its
YAML explains them. Read from the files, so that the help cannot be out of date and imports nothing heavy.
"""

import re

import click

from ptl_prefix import settings
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.verbs import Verb

FLAGS = (
    ("-m, --multirun", "run every combination of comma-separated values"),
    ("-c, --cfg job", "print the composed config and stop; with --resolve, its interpolations resolved"),
    ("-i, --info [TOPIC]", "how the config is composed: all, config, defaults, defaults-tree, plugins or searchpath"),
    ("-cd, --config-dir FOLDER", "a folder of your own configs, beside the package's"),
    ("-cn, --config-name NAME", "another primary config"),
    ("--hydra-help", "Hydra's own help"),
    ("--", "what follows is an argument, even with an equal sign in it"),
)


def write_verb_help(verb: Verb, formatter: click.HelpFormatter) -> None:
    """Add the sections below a verb's usage and summary."""
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
    """The keys at the root of the verb's YAML with their comments."""
    path = settings.conf_dir() / f"{verb.name}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = [re.fullmatch(r"(\w+): *(\S.*?) *(?:# *(.*))?", line) for line in lines]
    return tuple((f"{match[1]}={match[2]}", match[3] or "") for match in found if match)
