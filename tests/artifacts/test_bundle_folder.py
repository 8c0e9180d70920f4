from pathlib import Path

import pytest

from ptl_prefix.artifacts.bundle_folder import find_bundle
from ptl_prefix.errors import BundleError


def test_a_run_folder_means_its_bundle_and_a_bundle_itself(tmp_path: Path) -> None:
    bundle = tmp_path / "run/bundle"
    bundle.mkdir(parents=True)
    (tmp_path / "run/config.yaml").write_text("seed: 0")

    assert find_bundle(tmp_path / "run") == find_bundle(bundle) == bundle


@pytest.mark.parametrize(("name", "fact"), [("nope", "does not exist"), ("file", "is no folder"), ("run", "has none")])
def test_what_has_no_bundle_is_named(tmp_path: Path, name: str, fact: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("seed: 0")

    with pytest.raises(BundleError, match=fact):
        find_bundle(tmp_path / name)
