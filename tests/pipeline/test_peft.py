"""A run's adapter goes to PEFT and comes back, by the command line."""

import json
from pathlib import Path

import pytest
from support.command_lines import CommandLine, Invoke

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.run_folder import RunFolder

SOURCE = "name : The Golden Mill | kind : pub"


@pytest.fixture
def adapter(small_run: RunFolder, invoke: Invoke) -> Path:
    """The run's prefix as PEFT stores it."""
    result = invoke("export", f"run={small_run.path}", "format=peft", "out=adapter")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["adapter: adapter"]
    return Path("adapter")


def test_an_exported_adapter_comes_back_as_the_same_bundle(
    adapter: Path, small_run: RunFolder, command_line: CommandLine, invoke: Invoke
) -> None:
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert sorted(path.name for path in adapter.iterdir()) == names
    card = (adapter / "README.md").read_text()
    assert "library_name: peft\n" in card and "\nptl-prefix train " in card and "`test/exact_match`" in card
    assert str(command_line.tiny.backbone_folder) not in card

    # The backbone is the one that the adapter names.
    result = invoke("import", "peft=adapter", "out=bundle", "task=table_to_text", "dtype=float32")

    assert (result.exit_code, result.stdout) == (0, "bundle: bundle\n"), result.output
    assert "library_name: ptl_prefix\n" in Path("bundle/README.md").read_text()
    whole, back = read_bundle(small_run.bundle).manifest, read_bundle("bundle").manifest
    assert back.tensors_sha256 == whole.tensors_sha256
    assert (back.task, back.prompt, back.stop_ids) == (whole.task, whole.prompt, whole.stop_ids)
    texts = [invoke("generate", bundle, SOURCE, "max_new_tokens=6").stdout for bundle in ("bundle", small_run.bundle)]
    assert texts[0] == texts[1] != ""


def test_an_adapter_without_a_task_has_the_given_prompt(
    adapter: Path, command_line: CommandLine, invoke: Invoke
) -> None:
    backbone = f"backbone={command_line.tiny.backbone_folder}"

    result = invoke("import", "peft=adapter", "out=bundle", backbone, "before='{bos}'", "between=' ##'")

    assert result.exit_code == 0, result.output
    manifest = read_bundle("bundle").manifest
    assert (manifest.task, manifest.label_set) == ("unknown", None)
    assert (manifest.prompt.before, manifest.prompt.between) == ("{bos}", " ##")


@pytest.mark.parametrize(
    ("words", "code", "fact"),
    [
        (["export", "run={run}", "format=peft", "merge=true", "out=x"], 2, "`merge` must be false with format=peft"),
        (["export", "run={run}", "format=peft", "out=mine"], 1, "but 'mine' has other files"),
        (["export", "run={run}", "format=peft", "out=mine/thesis.txt"], 1, "must be written to a folder of its own"),
        (["import", "peft=nowhere", "out=x", "backbone=tiny_gpt2"], 1, "but 'nowhere' is not"),
        (["import", "peft=adapter", "out=x", "task=table_to_text", "between=' ='"], 2, "`between` must not be given"),
        (["import", "peft=adapter", "out=x", "backbone=llama_13b"], 2, "must have weights"),
        (["import", "peft=adapter", "out=x", "backbone=tiny_gpt2"], 1, "`prompt_embeddings` must be its only tensor"),
        (["import", "peft=elsewhere", "out=x"], 1, "set backbone=somebody/model"),
    ],
)
def test_mistakes_are_one_sentence(
    adapter: Path, small_run: RunFolder, invoke: Invoke, words: list[str], code: int, fact: str
) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years")
    elsewhere = Path("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    config = json.loads((adapter / "adapter_config.json").read_text())
    (elsewhere / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "somebody/model"}))

    result = invoke(*(word.replace("{run}", str(small_run.path)) for word in words))

    assert result.exit_code == code, result.output
    assert fact in result.stderr
    assert "Traceback" not in result.output
    assert not Path("x").exists()
