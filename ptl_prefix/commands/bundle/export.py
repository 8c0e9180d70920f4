"""`ptl-prefix export`: writes a run's checkpoint as a bundle, for PEFT, or merged into the backbone's weights."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from ptl_prefix.artifacts.checkpoint_file import read_checkpoint
from ptl_prefix.artifacts.model_card import CARD_FILE, write_card
from ptl_prefix.artifacts.peft_folder import CONFIG_FILE, TENSORS_FILE, write_peft
from ptl_prefix.artifacts.printed_command import printed_command
from ptl_prefix.artifacts.remote.fetch import is_any
from ptl_prefix.artifacts.remote.open_run import open_run
from ptl_prefix.artifacts.routing_facts import RoutingFacts
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.mean_states import mean_states
from ptl_prefix.commands.bundle.card import facts_of_bundle, facts_of_method
from ptl_prefix.commands.config.build_plan import build_plan, read_run_config
from ptl_prefix.data.routing import routing_facts, state_facts
from ptl_prefix.errors import ConfigError, RunError
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.peft_format import to_peft
from ptl_prefix.training.console import EscapingConsole
from ptl_prefix.training.export import export_bundle, export_merged
from ptl_prefix.training.plan import Plan


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Write the bundle or the merged model of a checkpoint.

    Args:
        config: `run`, `checkpoint`, `out`, `format` and `merge`.
        words: Must be empty.
        run_folder: Not used, because an export is not a run.
    """
    if words:
        raise ConfigError([f"`export` takes no arguments, but got {' '.join(words)!r}; set run=<folder> out=<folder>."])
    folder = open_run(config["run"], is_any)
    checkpoint = _checkpoint(folder, config["checkpoint"])
    plan = build_plan(read_run_config(folder))
    if config["merge"] and not plan.method.can_be_merged:
        raise ConfigError(
            [
                f"`merge` must be false for '{plan.method.name}', which cannot be merged into weights, but is true; "
                "export a bundle instead."
            ]
        )
    if config["merge"] and plan.backbone.quantization is not None:
        raise ConfigError(
            [
                f"`merge` must be false if the backbone is quantised, but is true and `backbone.quantization` is "
                f"{plan.backbone.quantization}; export a bundle instead."
            ]
        )
    state = _read_whole(checkpoint, folder, config)
    out = Path(config["out"])
    backbone = plan.backbone.load()
    routing = _routing(config, plan, backbone)
    plan.method.skip_start()
    method = plan.method.attach(backbone)
    method.load_trainable_parameters(state["state_dict"])
    method.eval()
    metrics = _metrics(folder, checkpoint, state)
    if config["format"] == "peft":
        _export_for_peft(out, method)
        write_card(out, facts_of_method("peft", plan, method, backbone, folder, metrics))
    elif config["merge"]:
        export_merged(out, backbone=backbone, method=method)
        write_card(out, facts_of_method("model", plan, method, backbone, folder, metrics))
    else:
        bundle = export_bundle(
            out,
            backbone=backbone,
            method=method,
            task=plan.task,
            prompter=backbone.prompter(plan.task.prompt),
            decoding=plan.decoding,
            metrics=metrics,
            routing=routing,
        )
        write_card(out, facts_of_bundle(bundle.manifest, folder, plan.task))
    what = "adapter" if config["format"] == "peft" else "model" if config["merge"] else "bundle"
    EscapingConsole().print(Text(f"{what}: {out}"), soft_wrap=True)


def _routing(config: Mapping[str, Any], plan: Plan, backbone: Backbone) -> RoutingFacts | None:
    """What the bundle says of the task's texts; the backbone is bare, as its hidden states are needed."""
    chosen = config["routing"] or plan.routing
    if config["merge"] or config["format"] != "bundle" or chosen == "none":
        return None
    states = state_facts(plan.task, partial(mean_states, backbone)) if chosen == "hidden_states" else None
    return routing_facts(plan.task, states=states)


def _export_for_peft(out: Path, method: Method) -> None:
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    own = {CONFIG_FILE, TENSORS_FILE}
    if (out.exists() and not out.is_dir()) or names - own - ({CARD_FILE} if names & own else set()):
        raise RunError(
            f"An adapter must be written to a folder of its own, but '{out}' has other files; choose another."
        )
    try:
        adapter = to_peft(method)
    except ValueError as error:
        raise ConfigError([f"`format` cannot be peft: {error}"]) from error
    write_peft(out, adapter)


def _checkpoint(folder: RunFolder, chosen: str) -> Path:
    """The file of a checkpoint that is named as in the run folder, with or without `.ckpt`, or by its path."""
    named = folder.checkpoints / f"{chosen.removesuffix('.ckpt')}.ckpt"
    path = named if named.is_file() or chosen in ("best", "last") else Path(chosen)
    if not path.is_file():
        raise RunError(
            f"`checkpoint` must be best, last, step-<step> of a checkpoint that was kept, or a file, but '{path}' is "
            f"not a file; look in '{folder.checkpoints}'."
        )
    return path


def _read_whole(checkpoint: Path, folder: RunFolder, config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint.

    Raises:
        RunError: If it is damaged; the message offers the run's other checkpoint if that one is whole.
    """
    try:
        return read_checkpoint(checkpoint)
    except RunError as error:
        other = {"best": "last", "last": "best"}.get(config["checkpoint"])
        if other is None:
            raise
        try:
            step = read_checkpoint({"best": folder.best, "last": folder.last}[other])["global_step"]
        except RunError as another:
            raise RunError(f"{error} {another} No checkpoint is left to export; repeat the run.") from error
        settings = [f"run={folder.path}", f"checkpoint={other}", f"out={config['out']}"]
        command = printed_command("export", *settings, *(["merge=true"] if config["merge"] else []))
        raise RunError(
            f"{error} The {other} checkpoint, of step {step}, is whole; export it with: {command}"
        ) from error


def _metrics(folder: RunFolder, checkpoint: Path, state: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a checkpoint: all of the record's for a finished run's best, else its own validation loss."""
    if folder.record.is_file() and folder.best.exists() and checkpoint.samefile(folder.best):
        record = read_record(folder.record)
        if record.status == "finished":
            return dict(record.metrics)
    loss = state["callbacks"]["Checkpoints"]["loss"]
    return {} if loss is None else {"val/loss": loss}
