"""Fixtures of tests/distillation."""

from pathlib import Path

import pytest

from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone


@pytest.fixture(scope="session")
def llama(tiny_folders: dict[str, Path]) -> Backbone:
    """A tiny LLaMA, to which no test attaches anything."""
    return load_backbone(str(tiny_folders["llama"]), name="llama", dtype="float32")
