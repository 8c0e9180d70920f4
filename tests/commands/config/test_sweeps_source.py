from pathlib import Path

import pytest
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError

from ptl_prefix.commands.config.plugins import make_plugins_known


def test_of_what_lies_beside_the_sweeps_hydra_sees_nothing(tmp_path: Path) -> None:
    make_plugins_known()
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
