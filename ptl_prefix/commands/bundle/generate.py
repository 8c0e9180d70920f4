"""`ptl-prefix generate`: text from a bundle, for sources on the command line or in a file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.commands.config.bundle_inputs import bundle_folder, decoding_changes, load_bundle_backbone, source_lines
from ptl_prefix.errors import ConfigError, DataError
from ptl_prefix.methods.restore import restore


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Write one text for each source.

    Args:
        config: Where sources come from and how text is decoded; `None` keeps the bundle's own.
        words: The bundle's folder or the run's, then sources.
        run_folder: Not used; generating is no run.
    """
    if not words:
        raise ConfigError(["`generate` needs a bundle or a run folder as its first argument, but got none."])
    bundle = read_bundle(bundle_folder(Path(words[0])))
    sources = [*words[1:], *source_lines(config["input"])]
    if not sources:
        raise ConfigError(["`generate` needs a source, as an argument or by input=<file>, but got none."])
    adaptation = restore(load_bundle_backbone(bundle.manifest, config), bundle)
    changes = decoding_changes(config)
    with _opened(config["output"]) as out:
        for start in range(0, len(sources), config["batch_size"]):
            try:
                texts = adaptation.generate(sources[start : start + config["batch_size"]], **changes)
            except ValueError as error:
                raise DataError(str(error)) from error  # a source that does not fit
            for text in texts:
                print(" ".join(text.split()), file=out, flush=True)


@contextmanager
def _opened(output: str | None) -> Iterator[TextIO]:
    """Where texts go, one per line, each as soon as its batch is decoded."""
    if output is None:
        yield sys.stdout
    else:
        try:
            file = Path(output).open("w", encoding="utf-8")  # noqa: SIM115 - closed below
        except OSError as error:
            raise DataError(
                f"`output` must be a file that can be written, but '{output}' cannot ({error.strerror}); name another."
            ) from error
        with file:
            yield file
