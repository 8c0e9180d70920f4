"""Compares training steps with a prefix in upper layers only, with and without the layers below computed once.

    python -m benchmarks.frozen_layers                                    # GPT-2's shape and a small LLaMA's
    python -m benchmarks.frozen_layers --shape smollm2 --steps 20 --json times.json

In: shapes with random weights, and rows of random ids. Out: for a prefix in all layers, in the upper half and in the
upper quarter, the median time of a step (its batch read and collated, forward, backward, AdamW), and with
`data.cache_hidden_states` also its ratio to the same step without; the time of computing the hidden states, and the
number of epochs after which they have paid for that.

Each round runs one step of every contender on the same rows in a random order; a ratio is the median of the rounds,
with quartiles. Hidden states are read from a file as in training, which the system's page cache holds after a while.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.rounds import Ratio, add_limit, in_rounds, paired_ratio, timed
from benchmarks.shapes import SHAPES, dtype_for, random_backbone
from benchmarks.step_builders import Training
from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding
from ptl_prefix.data.batches import EvalBatches, TrainBatches
from ptl_prefix.data.collation import EncodedRow
from ptl_prefix.data.encoded_split import EncodedSplit, EncodingReport, write_encoded
from ptl_prefix.data.hidden_states import HiddenStates, TokenPlaces, write_hidden_states
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.training.optimization import Optimization

SHARES = {"all layers": 1.0, "upper half": 0.5, "upper quarter": 0.25}
_CACHED = ", cached"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A prefix in some layers of a shape.

    Args:
        shape: Name of the shape.
        layers: Which layers have a prefix.
        num_layers: Number of these layers.
        step_s: Median seconds of a step.
        cached_step_s: The same with hidden states from disk; `None` if the prefix is in the lowest layer.
        cached_over_plain: Ratio of both.
        plain_over_all: Time of a step without hidden states over that of a prefix in all layers.
        cached_over_all: The same with hidden states.
        computed_s_per_row: Seconds of computing the hidden states of a row.
        pays_after_epochs: Number of epochs whose steps save as much time as computing the hidden states takes; `None`
            if nothing is saved.
    """

    shape: str
    layers: str
    num_layers: int
    step_s: float
    cached_step_s: float | None
    cached_over_plain: Ratio | None
    plain_over_all: Ratio
    cached_over_all: Ratio | None
    computed_s_per_row: float | None
    pays_after_epochs: float | None


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A training, and the seconds of computing its hidden states."""

    training: Training
    computed_s: float | None


def measure(shape: str, folder: Path, arguments: argparse.Namespace) -> list[Measurement]:
    """Measure one shape; files are written to a folder."""
    dtype = dtype_for(arguments.dtype)
    depth = random_backbone(shape, device="cpu", dtype=dtype).geometry["decoder_self"].num_layers
    encoded = random_rows(folder / "rows", random_backbone(shape, device="cpu", dtype=dtype), arguments)
    firsts = {name: depth - max(1, round(share * depth)) for name, share in SHARES.items()}
    contenders: dict[str, Contender] = {}
    for name, first in firsts.items():
        for cache in (None, *([folder / name] if first else [])):
            backbone = random_backbone(shape, device="cpu", dtype=dtype)
            contender = build(backbone, encoded, range(first, depth), cache, arguments)
            contenders[f"{name}{_CACHED if cache else ''}"] = contender
    turns = {name: timed(contender.training.step) for name, contender in contenders.items()}
    times = in_rounds(turns, rounds=arguments.steps, warmup=arguments.warmup, limit_s=arguments.limit_s)
    rows_per_step = arguments.batch_size
    found = []
    for name, first in firsts.items():
        plain, cached = times[name], times.get(f"{name}{_CACHED}")
        step_s, cached_step_s = statistics.median(plain), None if cached is None else statistics.median(cached)
        computed_s = contenders[f"{name}{_CACHED}"].computed_s if cached else None
        per_row = None if computed_s is None else computed_s / len(encoded)
        saved = 0.0 if cached_step_s is None else (step_s - cached_step_s) / rows_per_step
        found.append(
            Measurement(
                shape=shape,
                layers=name,
                num_layers=depth - first,
                step_s=step_s,
                cached_step_s=cached_step_s,
                cached_over_plain=None if cached is None else paired_ratio(cached, plain),
                plain_over_all=paired_ratio(plain, times["all layers"]),
                cached_over_all=None if cached is None else paired_ratio(cached, times["all layers"]),
                computed_s_per_row=per_row,
                pays_after_epochs=per_row / saved if per_row is not None and saved > 0 else None,
            )
        )
    return found


def random_rows(folder: Path, backbone: Backbone, arguments: argparse.Namespace) -> EncodedSplit:
    """Rows of random ids: prompts of one length, and targets that are up to 30% shorter than the longest."""
    generator = torch.Generator().manual_seed(1)
    source, target = arguments.source_tokens, arguments.target_tokens
    rows = []
    for example in range(arguments.rows):
        num_target = int(torch.randint(max(1, round(0.7 * target)), target + 1, (), generator=generator))
        ids = torch.randint(backbone.config.vocab_size, (source + num_target,), generator=generator).tolist()
        rows.append(EncodedRow(input_ids=ids, num_source_ids=source, example=example))
    return write_encoded(folder, [(rows, EncodingReport(num_examples=len(rows), num_pairs=len(rows)))])


def build(
    backbone: Backbone, encoded: EncodedSplit, layers: Sequence[int], cache: Path | None, arguments: argparse.Namespace
) -> Contender:
    """A plain prefix in some layers; with a folder, hidden states are computed and read there."""
    method = PrefixTuning(prefix_length=arguments.prefix_length, reparam="none", layers=list(layers)).attach(backbone)
    optimizer = Optimization(lr=1e-3).optimizer(method.lr_groups())
    batches = TrainBatches(encoded, batch_size=arguments.batch_size, padding=Padding(backbone.pad_id), seed=0)
    computed_s = None
    if cache is not None:
        began = time.perf_counter()
        batches = batches.starting_at(hidden_states(cache, backbone, method, encoded, arguments.eval_batch_size))
        computed_s = time.perf_counter() - began
    endless = _endless(batches)

    def step() -> float:
        loss = target_loss(backbone, method, next(endless))
        (loss.nats / loss.num_tokens).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.nats.detach()) / loss.num_tokens

    first: ModelInputs = next(iter(TrainBatches(encoded, batch_size=1, padding=Padding(backbone.pad_id), seed=0)))
    return Contender(training=Training(step, method.num_trainable, first), computed_s=computed_s)


def _endless(batches: TrainBatches) -> Iterator[ModelInputs]:
    while True:
        yield from batches


def hidden_states(
    folder: Path, backbone: Backbone, method: PrefixTuning, encoded: EncodedSplit, batch_size: int
) -> HiddenStates:
    """What the lowest layer with a prefix reads of each row, as training computes it."""
    places, layer = TokenPlaces(encoded), method.first_layer(backbone)
    width, dtype = backbone.hidden_size, backbone.dtype
    numbered = encoded.starting_at(places.numbered(layer))

    def computed() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in EvalBatches(numbered, batch_size=batch_size, padding=Padding(backbone.pad_id)):
            assert batch.layer_input is not None
            conditioned = method.condition(batch.replace(layer_input=None))
            yield batch.layer_input.states, backbone.layer_input(layer, conditioned).states

    with torch.no_grad():
        write_hidden_states(folder, computed(), num_tokens=places.num_tokens, width=width, dtype=dtype, facts={})
    return HiddenStates(folder, places, layer=layer, width=width, dtype=dtype)


def show(measurements: Sequence[Measurement], console: Console) -> None:
    """Print the measurements as a table."""
    table = Table(title="a step with a prefix in upper layers, and with the layers below computed once")
    headings = ("shape", "prefix in", "median ms", "cached, ms", "cached / plain", "plain / all", "pays after epochs")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in headings[:2] else "right", no_wrap=True)
    for one in measurements:
        cached = "" if one.cached_step_s is None else f"{one.cached_step_s * 1e3:.1f}"
        pays = "" if one.pays_after_epochs is None else f"{one.pays_after_epochs:.1f}"
        ratios = ["" if ratio is None else str(ratio) for ratio in (one.cached_over_plain, one.plain_over_all)]
        place = f"{one.layers} ({one.num_layers})"
        table.add_row(one.shape, place, f"{one.step_s * 1e3:.1f}", cached, *ratios, pays)
    console.print(table)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=tuple(SHAPES), default=["gpt2", "small_llama"])
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--eval-batch-size", type=int, default=64)
    parser.add_argument("--source-tokens", type=int, default=32)
    parser.add_argument("--target-tokens", type=int, default=32)
    parser.add_argument("--prefix-length", type=int, default=10)
    parser.add_argument("--rows", type=int, default=640, help="rows of an epoch")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--warmup", type=int, default=2)
    add_limit(parser)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    found = []
    for shape in arguments.shape:
        with tempfile.TemporaryDirectory() as folder:
            found += measure(shape, Path(folder), arguments)
    show(found, Console(width=132))
    if arguments.json is not None:
        values = {"environment": environment(), "measurements": [asdict(one) for one in found]}
        write_atomically(arguments.json, json.dumps(values, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
