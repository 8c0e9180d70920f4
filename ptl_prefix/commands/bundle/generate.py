"""`ptl-prefix generate`: generates text with a bundle for sources from the command line or a file."""

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.document_text import stale_note
from ptl_prefix.artifacts.hub_address import is_hub_address
from ptl_prefix.artifacts.remote.address import is_remote_address
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.commands.config.bundle_inputs import (
    changed_decoding,
    load_bundle_backbone,
    rendered_sources,
    source_lines,
)
from ptl_prefix.errors import ConfigError, DataError
from ptl_prefix.methods.restore import restore


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Generate one text per source.

    Args:
        config: See `conf/generate.yaml`; decoding settings that are `None` are the bundle's.
        words: Sources; the first word is the bundle or run folder unless `bundle` or `run` is given.
        run_folder: Not used, because generating is not a run.
    """
    given = config["bundle"] or config["run"]
    if given is None and not words:
        raise ConfigError(
            ["`generate` needs a bundle or run folder as its first argument or as bundle=<folder>, but got none."]
        )
    bundle = read_bundle(given or words[0])
    if is_hub_address(bundle.origin) or is_remote_address(bundle.origin):
        print(f"bundle: {bundle.origin}", file=sys.stderr)
    if (note := stale_note(bundle.manifest)) is not None:
        print(f"the bundle is stale: {escape_controls(note)}", file=sys.stderr)
    sources = [*(words if given else words[1:]), *source_lines(config["input"])]
    if not sources:
        raise ConfigError(["`generate` needs sources, but got none; add them as arguments or set input=<file>."])
    decoding = dataclasses.asdict(changed_decoding(bundle.manifest.decoding, config))
    adaptation = restore(load_bundle_backbone(bundle.manifest, config), bundle)
    sources = rendered_sources(adaptation, sources)  # all of them, before the output is opened
    with _opened(config["output"]) as out:
        for start in range(0, len(sources), config["batch_size"]):
            try:
                texts = adaptation.generate_rendered(sources[start : start + config["batch_size"]], **decoding)
            except ValueError as error:
                raise DataError(str(error)) from error  # the source is too long
            for text in texts:
                line = " ".join(text.split())
                # A file gets the text as it is; standard output may be a terminal.
                print(line if config["output"] else escape_controls(line), file=out, flush=True)


@contextmanager
def _opened(output: str | None) -> Iterator[TextIO]:
    """Open the output for texts, one per line; they are flushed after each batch."""
    if output is None:
        yield sys.stdout
    else:
        try:
            file = Path(output).open("w", encoding="utf-8")  # noqa: SIM115 - closed below
        except OSError as error:
            raise DataError(f"`output` must be a writable file, but '{output}' is not ({error.strerror}).") from error
        with file:
            yield file
