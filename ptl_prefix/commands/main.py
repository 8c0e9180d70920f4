"""The command `ptl-prefix`: which verb, which help, and how a failure leaves.

In: the arguments of the process. Out: a verb's body was called, and the exit code is 0; or a message on stderr and 2
for a mistake in what was typed or configured, 1 for what failed later. What nobody expected keeps its traceback.
Importing this file imports neither Hydra nor torch: `--help` and completion are answered at once.
"""

import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

import click

from ptl_prefix.commands import shell_completion
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.arguments import split_command_line
from ptl_prefix.commands.config.verbs import VERBS, Verb
from ptl_prefix.errors import ConfigError, PtlPrefixError

_EXAMPLES = """\b
Examples:
  ptl-prefix train                                  train on the embedded backbone and task
  ptl-prefix train method.prefix_length=20 seed=1   with other settings
  ptl-prefix train --help                           settings, groups and more examples
  ptl-prefix methods                                what `method=` may be
  ptl-prefix experiments                            published runs, with their settings
"""


class _Failure(click.ClickException):
    """What click shows instead of a traceback."""

    def show(self, file: Any = None) -> None:
        """The message alone; it is a sentence already."""
        click.echo(self.message, file=file, err=file is None)


class _Mistake(_Failure):
    """A failure that the command line or the config caused."""

    exit_code = 2


class _VerbCommand(click.Command):
    """A verb whose words are sorted by us: click would read Hydra's flags as its own."""

    def __init__(self, verb: Verb) -> None:
        super().__init__(verb.name, help=verb.summary, short_help=verb.summary)
        self.verb = verb

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments as they are, but for a call for help."""
        ctx.args = args
        if not ctx.resilient_parsing and {"--help", "-h"} & set(_before_dashes(args)):
            click.echo(ctx.get_help())
            ctx.exit()
        return args

    def invoke(self, ctx: click.Context) -> None:
        """Run the verb."""
        try:
            line = split_command_line(ctx.args)
        except ValueError as error:
            ctx.fail(str(error))
        if line.words and not self.verb.arguments:
            ctx.fail(
                f"{self.verb.name} takes no arguments, but got '{line.words[0]}'; settings are given as key=value."
            )
        # Imported here: Hydra costs a third of a second, a verb's body many.
        from ptl_prefix.commands.hydra_main import run_with_hydra

        def body(config: dict[str, Any], run_folder: Path) -> Any:
            return importlib.import_module(self.verb.module).run(config, line.words, run_folder)

        try:
            if self.verb.name == "sweep" and line.words[:1] in (("plan",), ("run",)):
                # Their overrides are those of the trials, not settings of this verb.
                importlib.import_module(self.verb.module).plan_or_run(line.words, line.overrides, line.flags)
            else:
                run_with_hydra(self.verb, line.overrides, line.flags, body)
        except ConfigError as error:
            raise _Mistake(str(error)) from error
        except PtlPrefixError as error:
            raise _Failure(str(error)) from error

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """What may follow the verb."""
        return [piece for piece in (self.verb.arguments, "[KEY=VALUE]...") if piece]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The groups, the verb's own settings, Hydra's flags and examples."""
        from ptl_prefix.commands.help import write_verb_help

        write_verb_help(self.verb, formatter)


def _before_dashes(args: list[str]) -> list[str]:
    return args[: args.index("--")] if "--" in args else args


class _CatalogCommand(click.Command):
    """A verb that lists the choices of one group."""

    def __init__(self, name: str, group: str) -> None:
        summary = f"List what `{group}=` may be, one line each."
        super().__init__(
            name, help=summary, short_help=summary, callback=lambda: click.echo(catalog.listing(catalog.choices(group)))
        )


@click.command("metrics", help="List the metrics that there are, one line each.")
def _metrics() -> None:
    click.echo(catalog.listing(catalog.metrics()))


class _Door(click.Group):
    """The verbs in the order in which a newcomer meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Not sorted by alphabet."""
        return list(self.commands)


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"ptl-prefix {importlib.metadata.version('ptl-prefix')}")
        ctx.exit()


@click.command(
    "completion",
    short_help="Print a script that completes words in bash, zsh or fish.",
    help="Print a script that teaches a shell the verbs, groups and settings. Put this into the shell's start-up file:"
    + "".join(f"\n\n\b\n{shell}: {how}" for shell, how in shell_completion.INSTALLATION.items()),
)
@click.argument("shell", type=click.Choice(shell_completion.SHELLS))
def _completion(shell: str) -> None:
    click.echo(shell_completion.script(shell), nl=False)


@click.command("complete", hidden=True, help="What the scripts of `completion` call: candidates for the last word.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def _complete(words: tuple[str, ...]) -> None:
    for candidate in shell_completion.candidates(words or ("",)):
        click.echo(candidate)


cli = _Door(
    "ptl-prefix",
    help="Train prefixes and other small adaptations of frozen language models, and write text with them.",
    epilog=_EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    commands=[
        *(_VerbCommand(verb) for verb in VERBS.values()),
        *(_CatalogCommand(name, group) for name, group in catalog.CATALOGS.items()),
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
"""What `ptl-prefix` is made of; `main` runs it."""


def main() -> None:
    """The console script."""
    cli(prog_name="ptl-prefix")
