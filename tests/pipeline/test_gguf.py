"""GGUF files from the command line: a tiny one, and a released model where its package is installed."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from support.command_lines import CommandLine, Invoke
from support.tiny_gguf import save_tiny_gguf

from ptl_prefix import load_bundle
from ptl_prefix.backbones import gguf_conversion
from ptl_prefix.backbones.spec import load_backbone


def test_a_bundle_that_was_trained_on_a_file_finds_it_again(
    command_line: CommandLine, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    file = save_tiny_gguf(tmp_path / "tiny.gguf", settings={"max_position_embeddings": 512})

    short = ["trainer.max_steps=2", "trainer.val_check_interval=2", "task.num_test=2", "evaluation.compare_bare=false"]
    short += ["generation.max_new_tokens=2", "method.reparam_hidden_size=8", "backbone.dtype=float32"]

    result = invoke("train", *command_line.embedded, *short, f"backbone={file}", "hydra.run.dir=run")

    assert result.exit_code == 0, result.output
    backbone = load_backbone(str(file), dtype="float32")
    bundle = load_bundle("run/bundle", backbone)
    assert bundle.generate(["name : Cotto"], max_new_tokens=2)
    result = invoke("generate", "run", "name : Cotto", "max_new_tokens=2")
    assert result.exit_code == 0, result.output


def test_a_failed_conversion_is_a_mistake_and_a_full_disk_is_not(
    command_line: CommandLine, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    file = save_tiny_gguf(tmp_path / "tiny.gguf")
    words = ["train", *command_line.embedded, f"backbone={file}", "dry_run=true"]

    with monkeypatch.context() as patch:
        patch.setattr(gguf_conversion, "_tokenizer", lambda folder: {}["tokens"])
        failed = invoke(*words)
    monkeypatch.setattr(gguf_conversion.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    full = invoke(*words)

    assert failed.exit_code == 2
    assert "  - `backbone.path` must be a GGUF file that transformers can read, but '" in failed.output
    assert "could not be converted: 'tokens'" in failed.output
    assert full.exit_code == 1
    assert "bytes, but the disk is full" in full.output
