"""Compares training steps with the backbone's layers as they are, and compiled by `torch.compile`.

    python -m benchmarks.compiled_layers                       # GPT-2's shape; needs a C++ compiler on a CPU
    python -m benchmarks.compiled_layers --shape tiny --steps 3

In: a shape with random weights, and a batch of random ids. Out: the median seconds of a step of a plain prefix, with
plain and with compiled layers; the seconds of the first compiled step, which compiles; and the speed of a training of
`--training-steps` steps with compiled layers over one with plain layers, compiling included. Each round runs a step of
both; a ratio is the median of the rounds, with quartiles. All batches have one shape here: a training's batches differ
in length, for which torch would compile again or compile for any length.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import training_sections
from benchmarks.report import finish
from benchmarks.rounds import add_limit, in_rounds, paired_ratio, timed
from benchmarks.shapes import random_backbone
from benchmarks.short_training import train_steps
from benchmarks.step_builders import Setting, add_setting, random_batch, setting_of
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.methods.prefix_tuning import PrefixTuning

PLAIN, COMPILED = "plain", "compiled"


class Steps:
    """Steps on one batch.

    Args:
        setting: Shape, dtype and batch.
        compiles: Whether the layers are compiled, at the first step.
    """

    def __init__(self, setting: Setting, *, compiles: bool) -> None:
        self._backbone = random_backbone(setting.shape, device=setting.device, dtype=setting.dtype)
        if compiles:
            for layer in layers_of(self._backbone):
                layer.compile()
        self._method = PrefixTuning(prefix_length=setting.prefix_length, reparam="none").attach(self._backbone)
        self._optimizer = torch.optim.AdamW(self._method.trainable_parameters().values(), 1e-4)
        self._batch = random_batch(setting, self._backbone)

    def step(self) -> None:
        """Take one step."""
        train_steps(self._backbone, self._method, [self._batch], self._optimizer)


def layers_of(backbone: Backbone) -> list[Any]:
    """The layers of a decoder-only model, each an attention and an MLP with what is around them."""
    body: Any = backbone.model.base_model
    return list(body.h if hasattr(body, "h") else body.layers)


def measure(setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure both."""
    runs = {way: Steps(setting, compiles=way == COMPILED) for way in (PLAIN, COMPILED)}
    began = time.perf_counter()
    runs[COMPILED].step()
    first_s = time.perf_counter() - began
    turns = {way: timed(run.step) for way, run in runs.items()}
    times = in_rounds(turns, rounds=arguments.steps, warmup=2, limit_s=arguments.limit_s)
    plain_s, compiled_s = (statistics.median(times[way]) for way in (PLAIN, COMPILED))
    num_steps = arguments.training_steps
    return {
        "plain_s": plain_s,
        "compiled_s": compiled_s,
        "first_s": first_s,
        "speed": asdict(paired_ratio(times[PLAIN], times[COMPILED])),
        "training_steps": num_steps,
        "training_speed": num_steps * plain_s / (first_s + (num_steps - 1) * compiled_s),
    }


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_setting(parser, shape="gpt2", batch_size=10)
    parser.add_argument("--steps", type=int, default=20, help="number of measured rounds")
    parser.add_argument("--training-steps", type=int, default=400)
    add_limit(parser)
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/compiled_layers.json"))
    arguments = parser.parse_args(words)
    setting = setting_of(arguments)
    # Layers of one class differ in their number, for which torch compiles again.
    torch._dynamo.config.recompile_limit = 64
    found = measure(setting, arguments)
    finish(arguments.json, {"setting": asdict(setting), **found}, training_sections.compiled_layers)


if __name__ == "__main__":
    main()
