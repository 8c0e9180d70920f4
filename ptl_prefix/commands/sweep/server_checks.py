"""The checks of a study that need the classes behind its configs: what `checks.py` has made in the trial server.

In: configs as plain values, and names, as JSON holds them. Out: sentences.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ptl_prefix import settings
from ptl_prefix.commands.config.instantiate import build, target_values
from ptl_prefix.commands.config.validate import config_problems
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.sweep.objective import VALIDATION_LOSS, objective_problems
from ptl_prefix.sweeping.sweeper_settings import Direction


def find_config_problems(
    verb: str,
    config: Mapping[str, Any],
    groups: Mapping[str, str | None],
    refused_groups: Sequence[str],
    configs: str | None,
) -> list[str]:
    """`config_problems` of a verb by its name, with the configs of a folder such as a study's own copy."""
    with nullcontext() if configs is None else settings.read_configs_from(Path(configs)):
        return config_problems(VERBS[verb], config, groups, refused_groups)


def find_pack_problems(config: Mapping[str, Any]) -> list[str]:
    """What keeps the trial of a config from training in a pack."""
    from ptl_prefix.training.pack_problems import pack_problems

    method, trainer = build(config["method"]), target_values(config["trainer"])
    return pack_problems(
        method,
        trainer,
        config["backbone"]["base_mode"],
        caches_hidden_states=config["data"]["cache_hidden_states"],
    )


def find_objective_problems(
    config: Mapping[str, Any], objective: str, direction: Direction | None, prunes: bool
) -> list[str]:
    """Why a study of such trials cannot search an objective."""
    select_by = config.get("training", {}).get("select_by", VALIDATION_LOSS)
    return objective_problems(objective, direction, build(config["task"]), select_by=select_by, prunes=prunes)
