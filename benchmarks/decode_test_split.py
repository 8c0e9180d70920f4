"""Compares greedy decoding in which rows that ended leave the batch with waiting for the longest row of each batch.

    python -m benchmarks.decode_test_split --data $PTL_PREFIX_DATA/data               # E2E's whole test split
    python -m benchmarks.decode_test_split --data $PTL_PREFIX_DATA/data --inputs 100 --backbone FOLDER

In: a backbone, on which a plain prefix is first trained for some steps, so that its outputs end; and the inputs of
E2E's test split. Out: seconds of decoding all of them with `backbones/greedy.py`, and with `generate` of transformers
and the same cache of prefix and text, which computes a row until the longest one of its batch ends; their ratio; and
the number of outputs that differ, as matrix products of other sizes round otherwise. Each round decodes everything both
ways; a ratio is the median of the rounds, with quartiles.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks import run_sections
from benchmarks.report import finish
from benchmarks.rounds import add_limit, in_rounds, paired_ratio
from benchmarks.short_training import train_steps
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones import generation
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.greedy import can_decode_greedily
from ptl_prefix.backbones.model_inputs import Padding
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.data.batches import TrainBatches
from ptl_prefix.data.encoding import encode_split
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.task import Task
from ptl_prefix.data.tasks.e2e_nlg import E2ENLG
from ptl_prefix.evaluation.decode import DecodingJob, decode
from ptl_prefix.evaluation.evaluate import sample
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.settings import defaults_of
from ptl_prefix.training.optimization import Optimization

LEAVING, WAITING = "rows that ended leave", "rows wait for the longest"
_PREFIX_LENGTH, _BATCH_SIZE, _TRAIN_EXAMPLES = 10, 16, 500


@dataclass(frozen=True)
class Decoded:
    """One way to decode everything.

    Args:
        seconds: Seconds that it took.
        texts: Text of each input.
    """

    seconds: float
    texts: tuple[str, ...]


def trained_prefix(task: Task, backbone: Backbone, steps: int) -> Method:
    """A plain prefix after some steps, attached to the backbone."""
    method = PrefixTuning(prefix_length=_PREFIX_LENGTH, reparam="none").attach(backbone)
    encoded = encode_split(
        task,
        "train",
        backbone.prompter(task.prompt),
        max_tokens=backbone.max_positions,
        reserved_positions=_PREFIX_LENGTH,
        settings=DataSettings(),
    )
    batches = TrainBatches(encoded, batch_size=_BATCH_SIZE, padding=Padding(backbone.pad_id), seed=0)
    optimizer = Optimization(lr=1e-2).optimizer(method.lr_groups())
    epochs = (batch for _ in range(steps) for batch in batches)
    train_steps(backbone, method, islice(epochs, steps), optimizer)
    return method


def decoded(job: DecodingJob, *, rows_leave: bool) -> Decoded:
    """Decode a job one way."""
    given: Callable[..., bool] = can_decode_greedily if rows_leave else lambda *_: False
    with patch.object(generation, "can_decode_greedily", given):
        began = time.perf_counter()
        predictions = decode(job)
        seconds = time.perf_counter() - began
    return Decoded(seconds, tuple(one.hypothesis for one in predictions))


def measure(job: DecodingJob, *, rounds: int, limit_s: float) -> dict[str, Any]:
    """Measure both ways."""
    turns: dict[str, Callable[[], Decoded]] = {
        way: partial(decoded, job, rows_leave=way == LEAVING) for way in (LEAVING, WAITING)
    }
    found = in_rounds(turns, rounds=rounds, warmup=1, limit_s=limit_s)
    seconds = {way: [one.seconds for one in decodings] for way, decodings in found.items()}
    first, other = (found[way][0].texts for way in (LEAVING, WAITING))
    return {
        "num_inputs": len(job.rows),
        "seconds": seconds,
        "ratio": asdict(paired_ratio(seconds[LEAVING], seconds[WAITING])),
        "num_different": sum(one != two for one, two in zip(first, other, strict=True)),
    }


def main(words: Sequence[str] | None = None) -> None:
    """Train, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with e2e")
    parser.add_argument("--backbone", default="tiny_gpt2")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="float32")
    parser.add_argument("--inputs", type=int, help="number of inputs, evenly spread over the split; default: all")
    parser.add_argument("--steps", type=int, default=200, help="steps of training before")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    add_limit(parser)
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/decode_test_split.json"))
    arguments = parser.parse_args(words)
    backbone = load_backbone(arguments.backbone, dtype=arguments.dtype, device="cpu")
    task = E2ENLG(data_dir=str(arguments.data / "e2e"), num_train_examples=_TRAIN_EXAMPLES)
    torch.manual_seed(0)
    method = trained_prefix(task, backbone, arguments.steps)
    job = DecodingJob(
        backbone=backbone,
        method=method,
        prompter=backbone.prompter(task.prompt),
        rows=sample(task, "test", arguments.inputs).rows,
        decoding=Decoding(**defaults_of("generation/greedy")),
        batch_size=arguments.batch_size,
        reserved_positions=method.reserved_positions(backbone),
    )
    found = measure(job, rounds=arguments.rounds, limit_s=arguments.limit_s)
    about = {"backbone": backbone.name, "dtype": str(backbone.dtype), "steps": arguments.steps}
    values = {**about, "batch_size": arguments.batch_size, **found}
    finish(arguments.json, values, run_sections.decode_test_split)


if __name__ == "__main__":
    main()
