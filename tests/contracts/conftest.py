"""Each contract runs with the pairs of a method and a backbone in `contract_cases`."""

from typing import TYPE_CHECKING

import pytest
from support.contract_cases import pairs

if TYPE_CHECKING:
    from ptl_prefix.backbones.backbone import Backbone

_BOTH = ("new_method", "any_backbone")


@pytest.fixture
def backbone(any_backbone: "Backbone") -> "Backbone":
    """A tiny backbone of any family."""
    return any_backbone


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise a test of a method on a backbone; a marker, as it takes the place of the fixtures' own parameters."""
    if set(_BOTH) <= set(metafunc.fixturenames):
        test = metafunc.definition
        test.add_marker(pytest.mark.parametrize(_BOTH, pairs(test.originalname), indirect=True))
