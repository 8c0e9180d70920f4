"""The ways in which something grows: what takes its time at each value, and what theory says that it costs.

In: a base setting. Out: an `Axis` for each name. Steps are those of a plain prefix with random weights and random ids,
without padding; the bundles are those of a server with the embedded backbone.
"""

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.attention_ways import synchronize
from benchmarks.bundle_folders import write_bundles
from benchmarks.packed_step import PackedTrials
from benchmarks.serving_engine import ask, running
from benchmarks.shapes import SHAPES, depth_shape, width_shape
from benchmarks.step_builders import CONTENDERS, Setting
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.serving.prefix_store import PrefixStore

_REQUESTS, _NEW_TOKENS = 8, 16
_BACKBONES = {5: "tiny", 135: "smollm2", 355: "gpt2_medium"}
"""Shapes by their millions of parameters; `tiny` is the embedded backbone's."""


@dataclass(frozen=True)
class Axis:
    """One way to grow.

    Args:
        values: The measured values, ascending.
        build: Creates what is timed at a value.
        cost: What theory says that it costs at a value, in any unit.
        bends: Why the time may leave the line.
    """

    values: tuple[int, ...]
    build: Callable[[Setting, int], Callable[[], object]]
    cost: Callable[[Setting, int], float]
    bends: str


def multiplications(setting: Setting, num_trials: int = 1) -> float:
    """Multiplications of a step: the matrix products of the layers, of attention, and of the LM head at targets.

    A frozen weight is used twice, forward and for the gradient of its input; attention's products three times, as both
    of their factors have a gradient.
    """
    config = SHAPES[setting.shape]()
    text = setting.source_tokens + setting.target_tokens
    tokens = num_trials * setting.batch_size * text
    layers = 2 * tokens * config.num_hidden_layers * _layer_weights(config)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    products = 2 * config.num_attention_heads * head_dim * (setting.prefix_length + text)
    attention = 3 * tokens * config.num_hidden_layers * products
    head = 2 * num_trials * setting.batch_size * setting.target_tokens * config.hidden_size * config.vocab_size
    return float(layers + attention + head)


def _layer_weights(config: Any) -> int:
    """Weights of one layer's matrices: queries, keys, values, output and MLP."""
    width = config.hidden_size
    if config.model_type == "gpt2":
        return int(12 * width**2)
    head_dim = getattr(config, "head_dim", None) or width // config.num_attention_heads
    attention = 2 * width * head_dim * (config.num_attention_heads + config.num_key_value_heads)
    return int(attention + 3 * width * config.intermediate_size)


def training_axis(
    values: tuple[int, ...],
    change: Callable[[Setting, int], Setting],
    bends: str,
    num_trials: Callable[[int], int] = lambda value: 1,
) -> Axis:
    """An axis of training steps.

    Args:
        values: The measured values, ascending.
        change: The setting at a value.
        bends: Why the time may leave the line of the multiplications.
        num_trials: Number of trials that share a step at a value.
    """

    def build(base: Setting, value: int) -> Callable[[], object]:
        setting = change(base, value)
        if num_trials(value) == 1:
            return CONTENDERS["ours"].build(setting).step
        trials = PackedTrials(setting, num_trials(value))

        def step() -> None:
            trials.packed_step()
            synchronize(setting.device)

        return step

    def cost(base: Setting, value: int) -> float:
        return multiplications(change(base, value), num_trials(value))

    return Axis(values, build, cost, bends)


class BundleFolder:
    """A folder of bundles until this process ends, and a server's engine over them.

    Args:
        number: Number of bundles.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._folder = Path(tempfile.mkdtemp(prefix="ptl-prefix-bench-"))
        atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        write_bundles(self._folder, _embedded(), number)
        self._store: PrefixStore | None = None

    def scan(self) -> PrefixStore:
        """Read the whole folder for the first time."""
        store = PrefixStore(self._folder, _embedded(), max_bytes=2**30)
        store.rescan()
        if len(store.bundles()) != self._number:
            raise RuntimeError(f"All {self._number} bundles must be offered, but {len(store.bundles())} are.")
        return store

    def answer(self) -> None:
        """Answer requests for bundles from all over the folder, in one batch."""
        self._store = self._store or self.scan()
        bundles = self._store.bundles()
        chosen = [bundles[index * len(bundles) // _REQUESTS] for index in range(_REQUESTS)]
        prompt = torch.arange(100, 132).tolist()
        with running(_embedded(), self._store, max_rows=_REQUESTS) as engine:
            answers = [ask(engine, bundle.version, prompt, _NEW_TOKENS) for bundle in chosen]
            for answer in answers:
                answer.is_finished.wait()


@functools.cache
def _embedded() -> Backbone:
    return load_backbone(dtype="float32", device="cpu")


AXES: Mapping[str, Axis] = {
    "prefix length": training_axis(
        (1, 10, 50, 100, 200, 400),
        lambda one, value: replace(one, prefix_length=value),
        "Each position of the prefix also has numbers of its own in every layer, which AdamW reads and writes in each "
        "step and which are joined to the keys and values of every row: memory traffic, and no multiplication.",
    ),
    "batch": training_axis(
        (1, 2, 4, 8, 16, 32, 64),
        lambda one, value: replace(one, batch_size=value),
        "A frozen weight is read from memory once for all rows: few rows leave the cores waiting for it, and share the "
        "fixed time of a step among few.",
    ),
    "text": training_axis(
        (32, 64, 128, 256, 512),
        lambda one, value: replace(one, source_tokens=value // 2, target_tokens=value // 2),
        "Short texts have few tokens for each weight that is read, as small batches; scores of attention grow with the "
        "square of the length, and are computed less efficiently than the layers' products.",
    ),
    "layers": training_axis(
        (1, 2, 4, 8, 12, 24),
        lambda one, value: replace(one, shape=depth_shape(value)),
        "The LM head is the same for any depth, and its products, of one large matrix, are the most efficient ones.",
    ),
    "width": training_axis(
        (128, 256, 512, 768, 1024),
        lambda one, value: replace(one, shape=width_shape(value)),
        "Small matrices keep the cores busy for less time than it takes to start their products.",
    ),
    "backbone": training_axis(
        tuple(_BACKBONES),
        lambda one, value: replace(one, shape=_BACKBONES[value]),
        "In millions of parameters: the embedded backbone's shape, SmolLM2-135M's, GPT-2 medium's. Narrow layers have "
        "small products, and many layers start many of them.",
    ),
    "trials": training_axis(
        (1, 2, 4, 8, 16),
        lambda one, value: replace(one, batch_size=2),
        "Trials of a pack share a pass: the rows of all read each frozen weight once, while each has an optimizer of "
        "its own.",
        num_trials=lambda value: value,
    ),
    "bundles, first scan": Axis(
        (1, 8, 64, 512),
        lambda base, value: BundleFolder(value).scan,
        lambda base, value: value,
        "A scan has a fixed time, too: it lists the folder and locks the store.",
    ),
    "bundles, a batch": Axis(
        (8, 64, 512),
        lambda base, value: BundleFolder(value).answer,
        lambda base, value: 1.0,
        f"Eight requests for as many bundles, {_NEW_TOKENS} tokens each: what else is in the store must not matter.",
    ),
}
