"""A checked config becomes a `Plan` of a training.

In: the config as plain values. Out: a `Plan` with every object built. The method may choose its own size and the
backbone's mode; the plan's `config` holds what was chosen, and absolute paths, so that a record reproduces it.
"""

from collections.abc import Mapping
from typing import Any

from ptl_prefix.artifacts.run_config import read_config
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.config.absolute_paths import with_absolute_paths
from ptl_prefix.commands.config.instantiate import build, target_values
from ptl_prefix.tracking.tracking import Tracking
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.plan_problems import start_inputs
from ptl_prefix.training.settings import TrainingSettings

_DEVICES = {"cpu": "cpu", "gpu": "cuda", "cuda": "cuda", "mps": "mps"}
"""Lightning's names of accelerators and torch's devices."""


_NODES = ("backbone", "task", "method", "data", "optimizer", "trainer", "generation", "evaluation")
"""The keys of a config whose values describe objects of every plan."""


def read_run_config(folder: RunFolder) -> dict[str, Any]:
    """The config of a run, which a plan can be built from.

    Raises:
        RunError: The file cannot be read, or lacks an object of a plan.
    """
    return read_config(folder, _NODES)


def build_plan(config: Mapping[str, Any]) -> Plan:
    """The plan that a config describes.

    Args:
        config: A config without problems.
    """
    config = with_absolute_paths(config)
    method = build(config["method"])
    backbone = backbone_node(config) | ({} if config["backbone"]["base_mode"] else {"base_mode": method.base_mode})
    task = build(config["task"])
    method.provide_start_inputs(start_inputs(task))
    chosen = method.choose_settings(build(backbone).load_shape()) if method.has_open_settings else {}
    config = {**config, "backbone": backbone, "method": _replaced(config["method"], chosen)}
    return Plan(
        seed=config["seed"],
        run_id=config["run_id"],
        backbone=build(backbone),
        task=task,
        method=method,
        data=build(config["data"]),
        optimization=build(config["optimizer"]),
        trainer=target_values(config["trainer"]),
        decoding=build(config["generation"]),
        evaluation=build(config["evaluation"]),
        # Runs of earlier versions have no such group.
        training=build(config["training"]) if "training" in config else TrainingSettings(),
        tracking=build(config["tracking"]) if "tracking" in config else Tracking(),
        # A config of an earlier version has no such key: its run keeps the bundle that it was promised.
        routing=config.get("routing", "none"),
        config=config,
    )


def backbone_node(config: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone's node, whose `device: auto` is replaced by that of `trainer.accelerator`, if that names one."""
    device = _DEVICES.get(config["trainer"].get("accelerator"))
    changes = {"device": device} if device and config["backbone"]["device"] == "auto" else {}
    return {**config["backbone"], **changes}


def _replaced(node: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a node with some of its values, at any depth, replaced."""
    return {
        key: _replaced(value, changes[key]) if isinstance(changes.get(key), Mapping) else changes.get(key, value)
        for key, value in node.items()
    }
