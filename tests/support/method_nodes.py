"""The config of a method as a run gets it, with what its file takes from other files.

In: the name of a file in `conf/method/`, and changes. Out: the node, or the method that it describes.
"""

import functools
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from support.toy_batches import toy_start_inputs

from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.commands.config.resolvers import register_resolvers
from ptl_prefix.methods.method import Method
from ptl_prefix.settings import conf_dir


@functools.cache
def _yaml(name: str) -> str:
    register_resolvers()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_yaml(compose("train", [f"method={name}"]).method)


def method_node(name: str, **changes: Any) -> dict[str, Any]:
    """The node, with some settings changed; those of a part are a dict of their own."""
    node: Any = OmegaConf.create(_yaml(name))
    merged: Any = OmegaConf.to_container(OmegaConf.merge(node, changes), resolve=True)
    return dict(merged)


def new_method(name: str, **changes: Any) -> Method:
    """The method, not attached, with training rows to start from."""
    method: Method = build(method_node(name, **changes))
    method.provide_start_inputs(toy_start_inputs())
    return method
