"""Hydra, initialised with the configs of this package.

In: nothing; the folder of configs is that of `settings.conf_dir()`. Out: a block in which `hydra.compose` works.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from ptl_prefix import settings
from ptl_prefix.commands.config.plugins import register_plugins
from ptl_prefix.commands.config.resolvers import register_resolvers

VERSION_BASE = "1.3"
"""Version of Hydra whose defaults are used."""


@contextmanager
def hydra_session() -> Iterator[None]:
    """Initialise Hydra for this block. A process has one Hydra: that of a running job is put back afterwards."""
    register_resolvers()
    register_plugins()
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(settings.conf_dir()), version_base=VERSION_BASE):
            yield
    finally:
        GlobalHydra.instance().hydra = running
