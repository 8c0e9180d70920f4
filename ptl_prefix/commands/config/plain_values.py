"""Turns a composed config into plain values, as far as it can be resolved.

In: OmegaConf's config. Out: mappings, lists, strings and numbers, and a sentence for each unresolved interpolation.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException


@dataclass
class Plain:
    """A config as plain values.

    Args:
        values: Values with interpolations resolved, without missing ones and without Hydra's own node.
        problems: A sentence for each interpolation that cannot be resolved.
        unresolved: Keys of all interpolations without a value.
    """

    values: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)


def plain_values(config: DictConfig) -> Plain:
    """The config as plain values."""
    plain = Plain({})
    keys = [key for key in config.keys() if key != "hydra"]  # noqa: SIM118  # `in config` skips `???`
    plain.values.update((str(key), value) for key in keys for value in _plain(config, key, "", plain))
    return plain


def _plain(parent: DictConfig | ListConfig, key: Any, where: str, plain: Plain) -> Iterator[Any]:
    """Yield the value of a key, or nothing if it is missing."""
    name = f"{where}{key}"
    if OmegaConf.is_missing(parent, key):
        return
    try:
        node = parent[key]
    except OmegaConfBaseException as error:
        plain.unresolved.append(name)
        # An interpolation of a missing value is not reported: the missing value is.
        if not isinstance(error, InterpolationToMissingValueError):
            plain.problems.append(f"`{name}` must be a value or point to one, but: {str(error).splitlines()[0]}.")
        return
    if isinstance(node, DictConfig):
        yield {str(k): value for k in node.keys() for value in _plain(node, k, f"{name}.", plain)}  # noqa: SIM118
    elif isinstance(node, ListConfig):
        yield [value for index in range(len(node)) for value in _plain(node, index, f"{name}.", plain)]
    else:
        yield node
