"""The command `ptl-prefix`: verbs, help and exit codes.

In: the arguments of the process. Out: the verb ran, and the exit code is 0; or a message on standard error and 2 for a
mistake in the command line or config, 1 for a later failure, 130 after Ctrl-C and 143 after SIGTERM. Unexpected errors
keep their traceback.
Importing this file imports neither Hydra nor torch, so that `--help` and completion are fast.
"""

import errno
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ptl_prefix import settings
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.backbones.library_logging import silence_library_messages
from ptl_prefix.commands import shell_completion
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.arguments import CommandLine, split_command_line
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.config.working_configs import completed
from ptl_prefix.commands.interrupts import stopped_by_signals
from ptl_prefix.commands.standard_streams import escape_unknown_characters, flush_output, output_failure, output_refuses
from ptl_prefix.errors import ConfigError, PtlPrefixError, StorageError

_EXAMPLES = """\b
Examples:
  ptl-prefix train                                  train on the embedded backbone and task
  ptl-prefix train method.prefix_length=20 seed=1   train with other settings
  ptl-prefix train --help                           show settings, groups and more examples
  ptl-prefix methods                                list the choices of `method=`
  ptl-prefix experiments                            list published runs and their settings
"""


class _Failure(click.ClickException):
    """An error whose message click prints without a traceback."""

    def show(self, file: Any = None) -> None:
        """Print the message alone; it is a whole sentence."""
        click.echo(escape_controls(self.message), file=file, err=file is None)


class _Mistake(_Failure):
    """A mistake in the command line or config."""

    exit_code = 2


class _VerbCommand(click.Command):
    """A verb that parses its arguments itself: click would take Hydra's flags for its own."""

    def __init__(self, verb: Verb) -> None:
        super().__init__(verb.name, help=verb.summary, short_help=verb.summary)
        self.verb = verb

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Print the help if it is requested; otherwise keep the arguments unparsed."""
        ctx.args = args
        if not ctx.resilient_parsing and {"--help", "-h"} & set(_before_dashes(args)):
            click.echo(ctx.get_help())
            ctx.exit()
        return args

    def invoke(self, ctx: click.Context) -> None:
        """Run the verb."""
        try:
            line = read_command_line(ctx.args)
        except ValueError as error:
            ctx.fail(str(error))
        if line.arguments and not self.verb.arguments:
            ctx.fail(
                f"{self.verb.name} takes no arguments, but got '{line.arguments[0]}'; settings are given as key=value."
            )
        # Imported here: Hydra takes a third of a second, a verb's module several seconds.
        from ptl_prefix.commands.hydra_main import run_with_hydra

        def body(config: dict[str, Any], run_folder: Path) -> Any:
            return importlib.import_module(self.verb.module).run(config, line.arguments, run_folder)

        try:
            if self.verb.name == "sweep" and line.arguments[:1] in (("plan",), ("run",)):
                # The given settings are those of the trials, not of this verb.
                importlib.import_module(self.verb.module).plan_or_run(line.arguments, line.overrides, line.flags)
            elif not self._run_as_study(line):
                run_with_hydra(self.verb, line.overrides, line.flags, body)
        except ConfigError as error:
            raise _Mistake(_shown(error)) from error
        except PtlPrefixError as error:
            raise _Failure(_shown(error)) from error
        except OSError as error:
            if not StorageError.describes(error) or output_refuses():
                raise  # `main` answers for standard output
            raise _Failure(str(StorageError(error.filename or "A file", error))) from error

    def _run_as_study(self, line: CommandLine) -> bool:
        """Whether the jobs of `-m` ran as a study."""
        if self.verb.study_module is None or not line.flags.multirun or line.flags.only_show:
            return False
        module = importlib.import_module(self.verb.study_module)
        return bool(module.run_as_study(self.verb, line.overrides, line.flags))

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The arguments after the verb, for the usage line."""
        return [piece for piece in (self.verb.arguments, "[KEY=VALUE]...") if piece]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, groups, settings and flags."""
        from ptl_prefix.commands.help import write_verb_help

        write_verb_help(self.verb, formatter)


def _working_conf() -> str | None:
    folder = settings.working_dir_of("conf")
    return None if folder is None else str(folder)


def read_command_line(words: Sequence[str]) -> CommandLine:
    """The parts of the words after a verb, as Hydra can compose them.

    The user's own `./conf` is used where no `--config-dir` is given.

    Raises:
        ValueError: For a flag that is unknown, has no value, or contradicts another.
    """
    return completed(split_command_line(words))


def _shown(error: PtlPrefixError) -> str:
    """The message of an error, without the values of environment variables that the config has read."""
    from ptl_prefix.commands.config.resolvers import hide_variables

    return hide_variables(str(error))


def _before_dashes(args: list[str]) -> list[str]:
    return args[: args.index("--")] if "--" in args else args


class _CatalogCommand(click.Command):
    """A verb that lists the choices of one group."""

    def __init__(self, name: str, group: str) -> None:
        listed = "predefined studies" if group == "sweeps" else f"choices of `{group}=`"
        summary = f"List the {listed}, one line each."
        super().__init__(
            name,
            help=summary,
            short_help=summary,
            callback=lambda: click.echo(catalog.listing(catalog.choices(group, _working_conf()))),
        )


@click.command(
    "backbones",
    short_help="List the choices of `backbone=`, and which are on this machine.",
    help="List the choices of `backbone=`: whether each is on this machine, its size, family and licence, and what to "
    "do if it is not there. The fingerprint of a GGUF file is that of its dequantised weights.",
)
def _backbones() -> None:
    # Imported here: it reads where the hub's cache is from huggingface_hub.
    from ptl_prefix.commands.config.backbone_presence import backbone_listing

    click.echo(backbone_listing(_working_conf()))


@click.command("metrics", help="List the metrics, one line each.")
def _metrics() -> None:
    click.echo(catalog.listing(catalog.metrics()))


class _Verbs(click.Group):
    """The verbs in the order in which a newcomer needs them."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; Ctrl-C and SIGTERM end it with their exit codes."""
        with stopped_by_signals(lambda: ctx.invoked_subcommand or ""):
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of `VERBS`."""
        return list(self.commands)


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        import importlib.metadata

        click.echo(f"ptl-prefix {importlib.metadata.version('ptl-prefix')}")
        ctx.exit()


@click.command(
    "completion",
    short_help="Print the completion script for bash, zsh or fish.",
    help="Print a script that completes verbs, groups and settings. Add this line to the shell's start-up file:"
    + "".join(f"\n\n\b\n{shell}: {how}" for shell, how in shell_completion.INSTALLATION.items()),
)
@click.argument("shell", type=click.Choice(shell_completion.SHELLS))
def _completion(shell: str) -> None:
    click.echo(shell_completion.script(shell), nl=False)


@click.command(
    "complete", hidden=True, help="Print the candidates for the last word; called by the completion scripts."
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def _complete(words: tuple[str, ...]) -> None:
    for candidate in shell_completion.candidates(words or ("",)):
        click.echo(candidate)


cli = _Verbs(
    "ptl-prefix",
    help="Train prefixes and other adaptations of frozen language models, and generate text with them.",
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    commands=[
        *(_VerbCommand(verb) for verb in VERBS.values()),
        *(
            _backbones if group == "backbone" else _CatalogCommand(name, group)
            for name, group in catalog.CATALOGS.items()
        ),
        _metrics,
        _completion,
        _complete,
    ],
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Show the version and stop.",
        )
    ],
)
"""The command `ptl-prefix`; `main` runs it."""


def main() -> None:
    """The console script."""
    silence_library_messages()
    escape_unknown_characters()
    failure: OSError | None = None
    code: Any = 0
    try:
        cli(prog_name="ptl-prefix")
    except SystemExit as end:
        code = end.code
    except OSError as error:
        if output_failure(error) is None or not output_refuses():
            raise  # the error came from another file
        failure = error
    failure = flush_output() or failure
    if failure is not None:
        code = code or 1
        if failure.errno != errno.EPIPE:  # who reads the first lines only wants no more
            click.echo(output_failure(failure), err=True)
    sys.exit(code)
