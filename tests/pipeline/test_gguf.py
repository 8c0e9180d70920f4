"""GGUF files from the command line: a tiny one, and a released model where its package is installed."""

from pathlib import Path

import pytest
from support.command_lines import CommandLine, Invoke
from support.tiny_gguf import save_tiny_gguf

from ptl_prefix import load_bundle
from ptl_prefix.backbones.spec import load_backbone


def test_a_bundle_that_was_trained_on_a_file_finds_it_again(
    command_line: CommandLine, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    file = save_tiny_gguf(tmp_path / "tiny.gguf", settings={"max_position_embeddings": 512})

    result = invoke("train", *command_line.embedded, f"backbone={file}", "hydra.run.dir=run")

    assert result.exit_code == 0, result.output
    backbone = load_backbone(str(file), dtype="float32")
    bundle = load_bundle("run/bundle", backbone)
    assert bundle.generate(["name : Cotto"], max_new_tokens=2)
    result = invoke("generate", "run", "name : Cotto", "max_new_tokens=2")
    assert result.exit_code == 0, result.output
