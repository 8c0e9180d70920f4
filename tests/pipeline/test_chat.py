"""Conversations from file to reply, and sources that a bundle renders with its task's template."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.command_lines import CommandLine, Invoke
from support.tiny_runs import write_tiny_backbone

from ptl_prefix.artifacts.bundle import read_bundle
from ptl_prefix.artifacts.predictions import read_predictions
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.errors import BundleError
from ptl_prefix.methods.restore import load_bundle

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def short(command_line: CommandLine, backbone: Path) -> list[str]:
    own = [word for word in command_line.small if not word.startswith(("task.", "backbone.path", "trainer.max_steps"))]
    return [*own, f"backbone.path={backbone}", "trainer.max_steps=4", "evaluation.num_examples=3", "tracking=csv"]


def write_rows(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def conversations(number: int) -> list[Any]:
    return [
        {
            "messages": [
                {"role": "system", "content": "Count."},
                {"role": "user", "content": f"After {row}?"},
                {"role": "assistant", "content": f"{row + 1}"},
                {"role": "user", "content": "And then?"},
                {"role": "assistant", "content": f"{row + 2}"},
            ]
        }
        for row in range(number)
    ]


def test_a_chat_is_trained_evaluated_and_continued_with_the_backbones_template(
    command_line: CommandLine, invoke: Invoke, tmp_path: Path
) -> None:
    backbone = write_tiny_backbone(tmp_path / "backbone")
    words = ["task=chat", "task.data_file=chats.jsonl", "task.test_fraction=0.2", *short(command_line, backbone)]
    write_rows(Path("chats.jsonl"), [*conversations(30), {"messages": [{"role": "user", "content": "x"}]}])
    refused = invoke("train", *words)
    assert refused.exit_code != 0
    assert "task.chat_template=chatml (or llama3, gemma), or a backbone with one of its own" in refused.output
    (backbone / "chat_template.jinja").write_text(TEMPLATE)

    result = invoke("train", *words, "hydra.run.dir=run")

    assert result.exit_code == 0, result.output
    assert "1 of 31 conversations are left out, as they have no reply of the assistant" in result.output
    run = RunFolder("run")
    prompt = read_bundle(run.bundle).manifest.prompt
    assert prompt.chat is not None
    assert (prompt.chat.name, prompt.chat.text) == ("backbone", TEMPLATE)
    (predictions,) = Path("run/evaluation").glob("*/predictions.jsonl")
    assert json.loads(read_predictions(predictions)[0].source)[0] == {"role": "system", "content": "Count."}
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    samples = [event for event in events if "samples" in event]
    assert all(one["source"].startswith("system: Count.\nuser: After") for one in samples[0]["samples"])
    written = invoke("generate", "run", "After 3?", json.dumps([{"role": "user", "content": "After 3?"}]))
    assert written.exit_code == 0, written.output
    first, second = written.stdout.splitlines()
    assert first == second
    assert "ends with the reply" in invoke("generate", "run", json.dumps(conversations(1)[0]["messages"])).output
    again = invoke("evaluate", "run=run", "num_examples=2", "metrics=[exact_match]")
    assert again.exit_code == 0, again.output
    assert "user: After" in again.output
    # The template is never that of the bundle.
    (backbone / "chat_template.jinja").write_text(TEMPLATE.replace("<assistant>", "<robot>"))
    other = invoke("generate", "run", "After 3?")
    assert other.exit_code != 0
    assert "of the backbone must be the one of the training, with the SHA-256" in " ".join(other.output.split())


@pytest.mark.slow
def test_a_bundle_of_another_built_in_template_is_refused(
    command_line: CommandLine, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptl_prefix.backbones import chat_rendering

    backbone = write_tiny_backbone(tmp_path / "backbone")
    words = ["task=chat", "task.chat_template=gemma", "task.data_file=chats.jsonl", *short(command_line, backbone)]
    write_rows(Path("chats.jsonl"), conversations(30))
    assert invoke("train", *words, "hydra.run.dir=run").exit_code == 0
    loaded = command_line.tiny.backbone()
    adaptation = load_bundle("run", loaded)
    assert len(adaptation.generate(["After 3?"], max_new_tokens=2)) == 1
    adaptation.detach()

    shutil.copytree(chat_rendering.BUILT_IN, tmp_path / "templates")
    monkeypatch.setattr(chat_rendering, "BUILT_IN", tmp_path / "templates")
    (tmp_path / "templates" / "gemma.jinja").write_text(TEMPLATE)

    with pytest.raises(BundleError, match="'gemma' of this version of ptl_prefix must be the one of the training"):
        load_bundle("run", loaded)


def test_an_encoder_decoder_is_refused_before_its_weights_load(
    command_line: CommandLine, invoke: Invoke, tmp_path: Path
) -> None:
    backbone = write_tiny_backbone(tmp_path / "backbone", "t5")
    write_rows(Path("chats.jsonl"), conversations(3))

    result = invoke("train", "task=chat", "task.data_file=chats.jsonl", "dry_run=true", *short(command_line, backbone))

    assert result.exit_code != 0
    assert "nothing was loaded" in result.output
    assert "must be continued by a decoder-only backbone, but tiny is an encoder-decoder" in result.output


@pytest.mark.slow
def test_generate_renders_sources_with_the_template_of_the_training(command_line: CommandLine, invoke: Invoke) -> None:
    backbone = command_line.tiny.backbone_folder
    write_rows(Path("x.jsonl"), [{"a": f"one {row}", "b": row, "target": "t"} for row in range(30)])
    words = ["task=text_pairs", "task.data_file=x.jsonl", *short(command_line, backbone)]
    for run, template in (("single", "Say: {a}!"), ("several", "{b}) {a}"), ("plain", None)):
        chosen = [] if template is None else [f"task.prompt_template='{template}'"]
        column = ["task.source_column=a"] if template is None else []
        result = invoke("train", *words, *chosen, *column, "trainer.max_steps=1", f"hydra.run.dir={run}")
        assert result.exit_code == 0, result.output
        assert read_bundle(run).manifest.prompt.source_template == template

    loaded = command_line.tiny.backbone()
    found = {}
    for run in ("single", "several", "plain"):
        adaptation = load_bundle(run, loaded)
        source = '{"a": " x ", "b": 7}' if run == "several" else " x "
        found[run] = adaptation.rendered([source])
        assert adaptation.generate([source]) == adaptation.generate_rendered(found[run])
        adaptation.detach()
    assert found == {"single": ["Say: x!"], "several": ["7) x"], "plain": [" x "]}

    write_rows(Path("rows.jsonl"), [{"a": "x", "b": 7}, {"a": ["x", "y"], "b": "z"}])
    assert len(invoke("generate", "several", "input=rows.jsonl").stdout.splitlines()) == 2
    for wrong, fact in (("x", "one is not JSON"), ('{"a": "x"}', "one has none as 'b'"), ('{"a": "x", "b": {}}', "{}")):
        refused = invoke("generate", "several", wrong)
        assert refused.exit_code != 0
        assert "must be a JSON object with the columns of the bundle's `prompt_template`" in refused.output
        assert fact in refused.output
