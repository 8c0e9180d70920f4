"""Released models that come as packages: each test with one skips by name where its package is not installed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ptl_prefix.backbones.package_file import package_parts
from ptl_prefix.errors import BackboneError
from ptl_prefix.settings import defaults_of


@contextmanager
def released_model(name: str, advice: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The path of a choice of `backbone=`; the test processes of a session share one cache, and convert it once.

    Args:
        name: Choice of `backbone=` with a GGUF file in a package.
        advice: What to do if the package is missing.
        tmp_path_factory: Factory of the session.
    """
    path = str(defaults_of(f"backbone/{name}")["path"])
    try:
        package_parts(path)
    except BackboneError:
        pytest.skip(f"needs the package {path.removeprefix('package:').partition('/')[0]}: {advice}")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(Path(shared) / name))
        yield path
