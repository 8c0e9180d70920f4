import sys
from pathlib import Path

import pytest
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError
from hydra.plugins.sweeper import Sweeper

from ptl_prefix.commands.config.plugins import register_plugins
from ptl_prefix.errors import ConfigError


def test_hydra_knows_our_sweeper_also_if_it_has_looked_for_plugins_before() -> None:
    plugins = Plugins.instance()
    plugins.class_name_to_class.pop("hydra_plugins.ptl_prefix_sweeper.StudySweeper", None)

    register_plugins()

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
        register_plugins()


def test_hydra_sees_nothing_beside_the_folder_of_sweeps(tmp_path: Path) -> None:
    register_plugins()
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/small.yaml").write_text("a: 1\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/private.yaml").write_text("a: 1\n")
    source = SourcesRegistry.instance().resolve("ptl-prefix-sweeps")("test", f"ptl-prefix-sweeps://{tmp_path}")

    assert source.available()
    assert source.list("", None) == source.list("", ObjectType.GROUP) == ["sweeps"]
    assert source.list("", ObjectType.CONFIG) == []
    assert source.list("sweeps", ObjectType.CONFIG) == ["small"]
    assert source.load_config("sweeps/small").config == {"a": 1}
    assert not source.is_group("other")
    assert not source.is_config("other/private")
    with pytest.raises(ConfigLoadError):
        source.load_config("other/private")
