"""The benchmark of compiled layers: compiled layers compute the same step."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from benchmarks import compiled_layers
from benchmarks.shapes import random_backbone
from benchmarks.step_builders import Setting

SETTING = Setting(
    shape="tiny",
    device="cpu",
    dtype="float32",
    batch_size=1,
    source_tokens=4,
    target_tokens=4,
    prefix_length=2,
    hidden_size=0,
    rank=0,
)


@pytest.mark.parametrize(("shape", "layers"), [("tiny", 4), ("tiny_llama", 4)])
def test_the_layers_of_a_backbone_are_found(shape: str, layers: int) -> None:
    found = compiled_layers.layers_of(random_backbone(shape, device="cpu", dtype="float32"))

    assert len(found) == layers
    assert len({type(layer) for layer in found}) == 1


def test_only_one_side_has_compiled_layers_and_its_speed_is_over_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda layer: compiled.append(layer))

    found = compiled_layers.measure(SETTING, argparse.Namespace(steps=1, limit_s=60.0, training_steps=10))

    assert len(compiled) == len(set(compiled)) == 4
    assert found["speed"]["median"] == pytest.approx(found["plain_s"] / found["compiled_s"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_steps_are_measured(tmp_path: Path) -> None:
    words = ["--shape", "tiny", "--batch-size", "2", "--steps", "2", "--training-steps", "10"]

    # A process of its own: what checks shapes in the tests can't be compiled.
    command = [sys.executable, "-m", compiled_layers.__name__, *words, "--json", str(tmp_path / "compiled.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr

    report = json.loads((tmp_path / "compiled.json").read_text(encoding="utf-8"))
    assert report["first_s"] > report["compiled_s"] > 0
    whole = report["first_s"] + 9 * report["compiled_s"]
    assert report["training_speed"] == pytest.approx(10 * report["plain_s"] / whole)
