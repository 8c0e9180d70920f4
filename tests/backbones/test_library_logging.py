"""The package leaves the logging, the warnings and the environment of the program that imports it alone."""

import json
import logging
import subprocess
import sys

from ptl_prefix.backbones.library_logging import silence_library_messages

_LOAD_AND_COMPARE = """
import json, logging, os, warnings

def state():
    loggers = {name: logging.getLogger(name) for name in [*logging.root.manager.loggerDict, None]}
    levels = {str(name): (one.level, one.disabled, one.propagate, len(one.handlers)) for name, one in loggers.items()}
    return {
        "loggers": levels,
        "disabled": logging.root.manager.disable,
        "warnings": [str(one) for one in warnings.filters],
        "environment": dict(os.environ),
    }

# What transformers itself changes when it loads a model is not ours.
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from ptl_prefix import settings

folder = settings.Path(settings.__file__).parent / "backbones" / "embedded" / "tiny_gpt2"
AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
for name in ("torchao", "torch.utils._pytree", "bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
    logging.getLogger(name)
before = state()

import ptl_prefix
ptl_prefix.load_backbone(device="cpu")
ptl_prefix.PrefixTuning

after = state()
changed = {name: (before[name], after[name]) for name in ("disabled", "warnings", "environment")}
changed |= {name: (old, after["loggers"][name]) for name, old in before["loggers"].items()}
print(json.dumps({name: pair for name, pair in changed.items() if pair[0] != pair[1]}))
"""


def test_loading_a_backbone_changes_neither_logging_nor_warnings_nor_the_environment() -> None:
    done = subprocess.run([sys.executable, "-c", _LOAD_AND_COMPARE], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout.splitlines()[-1]) == {}


def test_the_command_line_hides_messages_of_libraries_below_errors() -> None:
    silence_library_messages()

    assert not logging.getLogger("torchao").isEnabledFor(logging.WARNING)
    assert logging.getLogger("torchao").isEnabledFor(logging.ERROR)
