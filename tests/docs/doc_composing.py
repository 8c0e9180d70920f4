"""Commands that cannot run here are parsed, and their configs composed and checked as far as nothing absent is needed.

In: a console block. Out: sentences about what the command line or the config would refuse. This is the only file of
these checks that knows the insides of the package.
"""

import importlib
import shlex
from collections.abc import Iterator, Sequence
from unittest import mock

import click
from doc_pages import Block, commands_of

_SHELL = {"|", "||", "&&", ";", ">", ">>", "2>", "&", "<"}
_PLACEHOLDER = "<"


def refused(block: Block) -> list[str]:
    """What is wrong with the ptl-prefix commands of a block."""
    return [
        f"line {block.line}: {shlex.join(words)}: {problem}"
        for command in commands_of(block)
        for words in _own_commands(command.text)
        for problem in _problems(words)
    ]


def _own_commands(text: str) -> Iterator[list[str]]:
    """The words behind each `ptl-prefix` or `-m ptl_prefix`, up to the next sign of the shell."""
    words = shlex.split(text.replace("\\\n", " "), comments=True)
    starts = [i + 1 for i, word in enumerate(words) if word.endswith("ptl-prefix") or word == "ptl_prefix"]
    for start in starts:
        end = next(
            (i for i in range(start, len(words)) if words[i].rstrip(";") == "" or words[i] in _SHELL), len(words)
        )
        yield words[start:end]


def _problems(words: Sequence[str]) -> list[str]:
    from ptl_prefix.commands.config.verbs import VERBS
    from ptl_prefix.commands.main import cli

    if not words or words[0] not in cli.commands:
        return [f"must begin with a verb, one of {', '.join(cli.commands)}"]
    if words[0] not in VERBS or {"--help", "-h"} & set(words):
        return []
    try:
        return _config_problems(VERBS[words[0]], words[1:])
    except (ValueError, click.ClickException) as error:
        return [str(error)]


def _config_problems(verb: object, words: Sequence[str]) -> list[str]:
    """What would be refused whatever lies on the disk: unknown keys and choices, wrong types, clashing settings."""
    from ptl_prefix.commands.config.arguments import split_command_line
    from ptl_prefix.commands.config.backbone_folder import with_backbone_folder
    from ptl_prefix.commands.config.verbs import VERBS, Verb

    assert isinstance(verb, Verb)
    line = split_command_line(words)
    overrides, flags = with_backbone_folder(line.overrides, line.flags.config_dir), line.flags
    if verb.name == "sweep" and line.arguments[:1] in (("plan",), ("run",)):
        # What is given is of the trials; their study is a choice of the group `sweeps`.
        verb, overrides, flags = VERBS["train"], (f"sweeps={line.arguments[1]}", *overrides), flags
    return _composed_problems(verb, overrides, flags)


def _composed_problems(verb: object, overrides: Sequence[str], flags: object) -> list[str]:
    from ptl_prefix.commands.config import compose
    from ptl_prefix.commands.sweep.parse_space import as_choice, is_swept
    from ptl_prefix.errors import ConfigError

    # An interval of a study is checked by its ends.
    overrides = [as_choice(text) if is_swept(text) else text for text in overrides]

    checks = importlib.import_module("ptl_prefix.commands.config.validate")
    nothing = mock.Mock(return_value=[])
    # These open folders, files and libraries; what remains is asked of signatures alone.
    with mock.patch.multiple(checks, _own_problems=nothing, _cross_problems=nothing), _folders_are_runs():
        try:
            compose.compose_and_check(verb, overrides, flags)  # type: ignore[arg-type]
        except ConfigError as error:
            return list(error.mistakes)
    return []


def _folders_are_runs() -> "mock._patch[mock.Mock]":
    return mock.patch("ptl_prefix.commands.config.validate.RunFolder.open")
