"""The sweeping package imports fast: neither torch nor Hydra, and Optuna only when a storage is opened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import ptl_prefix.sweeping

MODULES = sorted(path.stem for path in Path(ptl_prefix.sweeping.__path__[0]).glob("*.py") if path.stem != "__init__")
HEAVY = ("torch", "transformers", "pytorch_lightning", "datasets", "peft", "hydra", "omegaconf", "optuna", "sqlalchemy")

LOAD = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(f"ptl_prefix.sweeping.{name}")
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize("modules", [["worker_pool"], ["scheduler"], MODULES], ids=["worker_pool", "scheduler", "all"])
def test_importing_loads_nothing_heavy(modules: list[str]) -> None:
    loaded = subprocess.run([sys.executable, "-c", LOAD, *modules], capture_output=True, text=True, check=True).stdout

    assert set(json.loads(loaded)) & {*HEAVY} == set()
    assert "ptl_prefix" in json.loads(loaded)
