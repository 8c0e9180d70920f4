"""Compares rows of one pair with packed rows, and with targets that share their prompt.

    python -m benchmarks.row_layouts --data $PTL_PREFIX_DATA/data
    python -m benchmarks.row_layouts --data $PTL_PREFIX_DATA/data --tasks e2e --backbone FOLDER

In: real data and a backbone. Out: for each task and layout, the positions that are computed over those that are needed,
and over the tokens of rows of one pair; and the time of the same targets, in training (forward, backward and AdamW of a
plain prefix) and in validation, as a ratio to rows of one pair. Each round runs all layouts in a random order; a ratio
is the median of the rounds.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.rounds import add_limit, in_rounds, paired_ratio
from benchmarks.short_training import train_steps
from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import IGNORED_LABEL, ModelInputs, Padding
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.data.batches import PLAIN, EvalBatches, RowLayout, TrainBatches
from ptl_prefix.data.encoded_split import EncodedSplit
from ptl_prefix.data.encoding import encode_split
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.task import SPLITS, Split, Task
from ptl_prefix.data.tasks.banking77 import Banking77
from ptl_prefix.data.tasks.dialogsum import DialogSum
from ptl_prefix.data.tasks.e2e_nlg import E2ENLG
from ptl_prefix.evaluation.loss import summed_loss
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.training.optimization import Optimization

TASKS: dict[str, Callable[[str], Task]] = {
    "e2e": lambda folder: E2ENLG(data_dir=folder),
    "dialogsum": lambda folder: DialogSum(data_dir=folder),
    "banking77": lambda folder: Banking77(data_dir=folder),
}
_PLAIN = "one pair"
LAYOUTS = {
    _PLAIN: PLAIN,
    "packing": RowLayout(packing=True),
    "shared sources": RowLayout(share_sources=True),
}
_PREFIX_LENGTH = 10


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One task in one layout.

    Args:
        task: Name of the task.
        layout: Name of the layout.
        computed_per_needed: Positions of an epoch's batches over those that are not padding.
        tokens_per_plain: Positions per target token over those of rows of one pair.
        training: Time per target token in training, as a ratio to rows of one pair.
        validation: The same in validation; packing alone is not used there.
    """

    task: str
    layout: str
    computed_per_needed: float
    tokens_per_plain: float
    training: float
    validation: float


def measure(task: str, folder: str, backbone: Backbone, arguments: argparse.Namespace) -> list[Measurement]:
    """Measure all layouts on one task."""
    train, validation = (_encoded(TASKS[task](folder), split, backbone) for split in SPLITS[:2])
    positions = {name: _positions(train, layout, backbone, arguments) for name, layout in LAYOUTS.items()}
    times = _times(train, validation, backbone, arguments)
    plain = positions[_PLAIN]
    return [
        Measurement(
            task=task,
            layout=name,
            computed_per_needed=computed / needed,
            tokens_per_plain=(computed / targets) / (plain[0] / plain[2]),
            training=_ratio(times, name, 0),
            validation=_ratio(times, name, 1),
        )
        for name, (computed, needed, targets) in positions.items()
    ]


def _encoded(task: Task, split: Split, backbone: Backbone) -> EncodedSplit:
    prompter = backbone.prompter(task.prompt)
    return encode_split(
        task,
        split,
        prompter,
        max_tokens=backbone.max_positions,
        reserved_positions=_PREFIX_LENGTH,
        settings=DataSettings(),
    )


def _positions(
    encoded: EncodedSplit, layout: RowLayout, backbone: Backbone, arguments: argparse.Namespace
) -> tuple[int, int, int]:
    """Positions, tokens and target tokens of some batches of an epoch."""
    batches = list(islice(_training(encoded, layout, backbone, arguments), arguments.counted_batches))
    return (
        sum(batch.input_ids.numel() for batch in batches),
        sum(batch.num_tokens for batch in batches),
        sum(map(_num_targets, batches)),
    )


def _training(
    encoded: EncodedSplit, layout: RowLayout, backbone: Backbone, arguments: argparse.Namespace
) -> Iterator[ModelInputs]:
    batch_size, padding = arguments.batch_size, Padding(backbone.pad_id)
    return iter(TrainBatches(encoded, batch_size=batch_size, padding=padding, seed=0, layout=layout))


def _num_targets(batch: ModelInputs) -> int:
    return int((batch.next_labels != IGNORED_LABEL).sum())


def _times(
    train: EncodedSplit, validation: EncodedSplit, backbone: Backbone, arguments: argparse.Namespace
) -> dict[str, list[tuple[float, float]]]:
    """For each layout and round: seconds per target token in training and in validation."""
    method = PrefixTuning(prefix_length=_PREFIX_LENGTH, reparam="none").attach(backbone)
    optimizer = Optimization(lr=1e-3).optimizer(method.lr_groups())

    def training(layout: RowLayout) -> float:
        started = time.perf_counter()
        batches = islice(_training(train, layout, backbone, arguments), arguments.steps)
        num_tokens = train_steps(backbone, method, batches, optimizer)
        return (time.perf_counter() - started) / num_tokens

    def validating(layout: RowLayout) -> float:
        batches = EvalBatches(
            validation,
            batch_size=arguments.eval_batch_size,
            padding=Padding(backbone.pad_id),
            num_examples=arguments.validation_examples,
            layout=layout,
        )
        started = time.perf_counter()
        total = summed_loss(backbone, method, batches)
        return (time.perf_counter() - started) / total.num_tokens

    turns = {name: partial(_both, training, validating, layout) for name, layout in LAYOUTS.items()}
    times = in_rounds(turns, rounds=arguments.rounds, warmup=1, limit_s=arguments.limit_s)
    method.detach()
    return times


def _both(
    training: Callable[[RowLayout], float], validating: Callable[[RowLayout], float], layout: RowLayout
) -> tuple[float, float]:
    return training(layout), validating(layout)


def _ratio(times: Mapping[str, Sequence[tuple[float, float]]], name: str, part: int) -> float:
    return paired_ratio(*([one[part] for one in times[side]] for side in (name, _PLAIN))).median


def show(measurements: Sequence[Measurement], console: Console) -> None:
    """Print the measurements as a table."""
    table = Table(title="positions and time, per target token")
    columns = ("task", "layout", "computed / needed", "positions / one pair", "training / one pair", "validation")
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:2] else "right")
    for one in measurements:
        numbers = (one.computed_per_needed, one.tokens_per_plain, one.training, one.validation)
        table.add_row(one.task, one.layout, *(f"{number:.3f}" for number in numbers))
    console.print(table)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with e2e, dialogsum and banking77")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--backbone", default="tiny_gpt2")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--eval-batch-size", type=int, default=64)
    parser.add_argument("--counted-batches", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--validation-examples", type=int, default=100, help="examples, each with all of its targets")
    parser.add_argument("--rounds", type=int, default=3)
    add_limit(parser)
    parser.add_argument("--out", "--json", dest="out", type=Path)
    arguments = parser.parse_args(words)
    backbone = load_backbone(arguments.backbone, dtype=arguments.dtype)
    found = [one for task in arguments.tasks for one in measure(task, str(arguments.data / task), backbone, arguments)]
    show(found, Console(width=120))
    if arguments.out is not None:
        values = {"environment": environment(), "measurements": [asdict(one) for one in found]}
        write_atomically(arguments.out, json.dumps(values, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
