"""Compares logits in chunks with all logits at once, where the vocabulary is large: peak memory and time.

    python -m benchmarks.head_memory                     # the shape of Gemma 3 270M, a vocabulary of 262,144
    python -m benchmarks.head_memory --shape tiny --batch-size 4 --validation-rows 8 --rounds 1

In: a shape with random weights, and batches of random ids. Out: of a training step and of a validation batch, the peak
resident memory of a process that does nothing else, weights and libraries included, and the seconds; with the logits of
`loss.num_positions_in_chunk` positions in memory together, and with those of all positions. Each round runs everything
in a random order; a ratio is the median of the rounds, with quartiles.
"""

import argparse
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks import training_sections
from benchmarks.report import finish
from benchmarks.resident_memory import ResidentMemory
from benchmarks.rounds import Ratio, add_limit, in_rounds, paired_ratio, timed
from benchmarks.shapes import SHAPES, random_backbone
from benchmarks.short_training import train_steps
from benchmarks.step_builders import Setting, add_setting, random_batch, setting_of
from ptl_prefix.evaluation import loss
from ptl_prefix.methods.prefix_tuning import PrefixTuning

CHUNKS, WHOLE = "in chunks", "all at once"
STAGES = ("training", "validation")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A stage of training, with one way to compute the logits.

    Args:
        stage: `training` or `validation`.
        way: `in chunks` or `all at once`.
        peak_bytes: Peak resident memory of a process that runs this stage alone.
        seconds: Seconds of a batch in each round.
        over_whole: Ratio to all logits at once.
    """

    stage: str
    way: str
    peak_bytes: int
    seconds: list[float]
    over_whole: Ratio


@contextmanager
def all_at_once() -> Iterator[None]:
    """Inside, a chunk has all positions."""
    with patch.object(loss, "num_positions_in_chunk", lambda vocabulary_size: 2**40):
        yield


def stages(setting: Setting, validation_rows: int) -> dict[tuple[str, str], Callable[[], object]]:
    """A step and a validation batch, each with both ways to compute the logits."""
    backbone = random_backbone(setting.shape, device=setting.device, dtype=setting.dtype)
    method = PrefixTuning(prefix_length=setting.prefix_length, reparam="none").attach(backbone)
    optimizer = torch.optim.AdamW(method.trainable_parameters().values(), 1e-4)
    batch = random_batch(setting, backbone)
    validation = random_batch(replace(setting, batch_size=validation_rows), backbone)
    run: dict[str, Callable[[], object]] = {
        "training": lambda: train_steps(backbone, method, [batch], optimizer),
        "validation": lambda: loss.mean_loss(backbone, method, [validation]),
    }

    def in_way(stage: str, way: str) -> Callable[[], object]:
        def step() -> object:
            with all_at_once() if way == WHOLE else nullcontext():
                return run[stage]()

        return step

    return {(stage, way): in_way(stage, way) for stage in STAGES for way in (CHUNKS, WHOLE)}


def peak_of(stage: str, way: str, setting: Setting, validation_rows: int) -> int:
    """Peak resident bytes of a batch of one stage, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_own_peak, (stage, way, setting, validation_rows, torch.get_num_threads()))


def _own_peak(stage: str, way: str, setting: Setting, validation_rows: int, num_threads: int) -> int:
    torch.set_num_threads(num_threads)
    run = stages(setting, validation_rows)[stage, way]
    memory = ResidentMemory()
    memory.reset()
    run()
    return memory.peak()


def measure(setting: Setting, arguments: argparse.Namespace) -> list[Measurement]:
    """Measure memory first, while this process holds no model, then time."""
    places = [(stage, way) for stage in STAGES for way in (CHUNKS, WHOLE)]
    peaks = {place: peak_of(*place, setting, arguments.validation_rows) for place in places}
    turns = {place: timed(run) for place, run in stages(setting, arguments.validation_rows).items()}
    times = in_rounds(turns, rounds=arguments.rounds, warmup=1, limit_s=arguments.limit_s)
    return [
        Measurement(
            stage=stage,
            way=way,
            peak_bytes=peaks[stage, way],
            seconds=seconds,
            over_whole=paired_ratio(seconds, times[stage, WHOLE]),
        )
        for (stage, way), seconds in times.items()
    ]


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_setting(parser, shape="gemma_270m", batch_size=8)
    parser.add_argument("--validation-rows", type=int, default=64, help="rows of a validation batch")
    parser.add_argument("--rounds", type=int, default=4)
    add_limit(parser)
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/head_memory.json"))
    arguments = parser.parse_args(words)
    setting = setting_of(arguments)
    found = measure(setting, arguments)
    vocabulary = SHAPES[arguments.shape]().vocab_size
    chunk = loss.num_positions_in_chunk(vocabulary)
    about = {"setting": asdict(setting), "validation_rows": arguments.validation_rows, "chunk": chunk}
    values = {**about, "measurements": [asdict(one) for one in found]}
    finish(arguments.json, values, training_sections.head_memory)


if __name__ == "__main__":
    main()
