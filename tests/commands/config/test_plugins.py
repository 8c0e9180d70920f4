import sys
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from ptl_prefix.commands.config.plugins import make_plugins_known
from ptl_prefix.errors import ConfigError


def test_hydra_knows_our_sweeper_also_if_it_has_looked_for_plugins_before() -> None:
    plugins = Plugins.instance()
    plugins.class_name_to_class.pop("hydra_plugins.ptl_prefix_sweeper.StudySweeper", None)

    make_plugins_known()

    assert "StudySweeper" in {plugin.__name__ for plugin in plugins.discover(Sweeper)}
    assert "hydra_plugins.ptl_prefix_sweeper.StudySweeper" in plugins.class_name_to_class


def test_the_stock_plugin_beside_ours_is_refused_by_the_name_of_what_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = tmp_path / "hydra_plugins/hydra_optuna_sweeper"
    stock.mkdir(parents=True)
    (stock / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])

    with pytest.raises(ConfigError, match="pip uninstall hydra-optuna-sweeper"):
        make_plugins_known()
