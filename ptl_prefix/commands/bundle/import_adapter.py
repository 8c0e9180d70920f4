"""`ptl-prefix import`: makes a bundle of an adapter that PEFT saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from ptl_prefix.artifacts.model_card import write_card
from ptl_prefix.artifacts.peft_folder import find_adapter, read_peft
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.commands.bundle.card import facts_of_bundle
from ptl_prefix.commands.config.bundle_inputs import load_chosen_backbone
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.errors import ConfigError
from ptl_prefix.methods.peft_format import from_peft
from ptl_prefix.training.console import EscapingConsole
from ptl_prefix.training.export import export_bundle


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Write the bundle of an adapter.

    Args:
        config: See `conf/import.yaml`.
        words: Must be empty.
        run_folder: Not used, because an import is not a run.
    """
    if words:
        raise ConfigError(
            [f"`import` takes no arguments, but got {' '.join(words)!r}; set peft=<folder> out=<folder>."]
        )
    task = build(config["task"]) if "task" in config else None
    adapter = read_peft(find_adapter(config["peft"]))
    backbone = load_chosen_backbone(
        config,
        str(adapter.config.get("base_model_name_or_path") or ""),
        of="an adapter",
        settings={"dtype": config["dtype"], "device": config["device"]},
    )
    prompt = task.prompt if task is not None else PromptFormat(before=config["before"], between=config["between"])
    out = Path(config["out"])
    bundle = export_bundle(
        out,
        backbone=backbone,
        method=from_peft(adapter, backbone),
        task=task,
        prompter=backbone.prompter(prompt),
        decoding=build(config["generation"]),
        metrics={},
    )
    write_card(out, facts_of_bundle(bundle.manifest, None, task))
    EscapingConsole().print(Text(f"bundle: {config['out']}"), soft_wrap=True)


def cross_problems(config: Mapping[str, Any], built: Mapping[str, Any]) -> list[str]:
    """A prompt format beside a task, which has its own, and a backbone without weights."""
    mistakes = [
        f"`{key}` must not be given with `task`, which has its own prompt format."
        for key in ("before", "between")
        if "task" in config and config[key]
    ]
    return mistakes + (built["backbone"].weight_problems() if "backbone" in built else [])
