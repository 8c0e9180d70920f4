"""Compares the decoding time with a prefix to that of the bare backbone.

    python -m benchmarks.decode_time                 # GPT-2-small shape, 32 rows, 64 prompt and 64 new tokens
    python -m benchmarks.decode_time --device cuda --rounds 10

In: a shape with random weights, and prompts of random ids. Out: for each contender, the median time to generate the new
tokens of all rows, and its ratio to the bare backbone's time with transformers' cache. All contenders share one model;
each round runs them in a random order, so that a slow period of the machine affects all of them. `through the slots`
uses transformers' cache, and concatenates the prefix with the cached text in every step.
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.report import write_report
from benchmarks.rounds import add_limit, in_rounds
from benchmarks.shapes import SHAPES, dtype_for, random_backbone
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.generation import generate
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding, prompt_batch
from ptl_prefix.backbones.prefix_slots import PrefixSlots
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.no_adaptation import NoAdaptation
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.settings import defaults_of

_LENGTHS = (16, 100)
BARE = "bare backbone"


@dataclass(frozen=True)
class Contender:
    """One way to decode.

    Args:
        method: Method that is attached before each measurement and detached after it; neither is timed.
        caches: Whether to use this package's preallocated cache, which starts with the prefix; else transformers'.
    """

    method: Method
    caches: bool = True


def contenders() -> dict[str, Contender]:
    """The bare backbone, and prefixes with and without this package's cache."""
    return {BARE: Contender(NoAdaptation())} | {
        f"prefix of {length}, {way}": Contender(PrefixTuning(prefix_length=length, reparam="none").eval(), caches)
        for length in _LENGTHS
        for way, caches in (("in the cache", True), ("through the slots", False))
    }


def decode_s(contender: Contender, backbone: Backbone, prompts: ModelInputs, decoding: Decoding) -> float:
    """Measure the seconds to decode all rows."""
    contender.method.attach(backbone)
    with patch.object(PrefixSlots, "cache", PrefixSlots.cache if contender.caches else lambda *_, **__: None):
        start = time.perf_counter()
        generate(backbone, contender.method.condition(prompts), decoding, ())
        if backbone.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    contender.method.detach()
    return seconds


def interleaved_times(
    backbone: Backbone,
    prompts: ModelInputs,
    decoding: Decoding,
    *,
    rounds: int,
    warmup: int,
    limit_s: float = float("inf"),
) -> dict[str, list[float]]:
    """Measure the seconds of every contender, in rounds."""
    turns = {name: partial(decode_s, one, backbone, prompts, decoding) for name, one in contenders().items()}
    return in_rounds(turns, rounds=rounds, warmup=warmup, limit_s=limit_s)


def show(times: Mapping[str, Sequence[float]], title: str, console: Console) -> dict[str, float]:
    """Print the medians, and return their ratios to the bare backbone's median."""
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    ratios = {name: median / medians[BARE] for name, median in medians.items()}
    table = Table(title=title)
    for heading in ("contender", "median s", "slowest s", "ratio to bare backbone"):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    for name, seconds in times.items():
        table.add_row(name, f"{medians[name]:.2f}", f"{max(seconds):.2f}", f"{ratios[name]:.3f}")
    console.print(table)
    return ratios


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="gpt2")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="auto: bfloat16 if native"
    )
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="number of measured rounds")
    parser.add_argument("--warmup", type=int, default=1, help="number of rounds before the measured ones")
    add_limit(parser)
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/decode_time.json"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    dtype = dtype_for(arguments.dtype, arguments.device)
    backbone = random_backbone(arguments.shape, device=arguments.device, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(8000, (arguments.rows, arguments.prompt_tokens), generator=generator)
    prompts = prompt_batch(ids.tolist(), Padding(0)).to(arguments.device)
    new = {"max_new_tokens": arguments.new_tokens, "min_new_tokens": arguments.new_tokens}
    decoding = Decoding(**{**defaults_of("generation/greedy"), **new})
    number = {"rounds": arguments.rounds, "warmup": arguments.warmup, "limit_s": arguments.limit_s}
    times = interleaved_times(backbone, prompts, decoding, **number)
    setting = f"{arguments.shape} shape, {dtype}, {arguments.device}, {arguments.rows} rows"
    title = f"decoding {arguments.new_tokens} tokens after {arguments.prompt_tokens}: {setting}"
    ratios = show(times, title, Console())
    write_report(arguments.json, {"title": title, "seconds": times, "times_bare": ratios})


if __name__ == "__main__":
    main()
