"""The parts of `benchmarks.gpu_day`: each measures one shape on a device.

In: the name of a shape, a `Scale` and a device. Out: a line for each measurement, as names and values.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import attention_ways as attention
from benchmarks import decode_time, serving
from benchmarks.packed_step import PackedTrials
from benchmarks.rounds import in_rounds, paired_ratio, timed
from benchmarks.shapes import random_backbone
from benchmarks.step_builders import CONTENDERS, Setting, check_comparable
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.backbones.model_inputs import Padding, prompt_batch
from ptl_prefix.settings import defaults_of

STEP_CONTENDERS = ("peft", "peft_targets", "ours", "peft_mlp", "ours_mlp")
_TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}
"""Largest difference of two ways' outputs, relative to the largest number; gradients may differ by ten times that."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Args:
        shapes: Keys of `SHAPES`.
        dtype: Dtype of the backbones.
        rounds: Measured rounds of each comparison.
        texts: Batch size and tokens per row of the attention inputs.
        prefix_length: Extra positions per layer.
        step_batch: Rows of a training batch.
        step_tokens: Tokens of a row, half of them with a loss.
        packs: Numbers of trials in a pack.
        pack_batch: Rows of each of its trials.
        rows: Rows that are decoded, and requests of the server.
        new_tokens: Tokens that are generated for each.
    """

    shapes: tuple[str, ...]
    dtype: str
    rounds: int
    texts: tuple[tuple[int, int], ...]
    prefix_length: int
    step_batch: int
    step_tokens: int
    packs: tuple[int, ...]
    pack_batch: int
    rows: int
    new_tokens: int


WHOLE = Scale(
    shapes=("gpt2_medium", "llama_1b"),
    dtype="bfloat16",
    rounds=10,
    texts=((32, 128), (8, 1024)),
    prefix_length=16,
    step_batch=16,
    step_tokens=256,
    packs=(1, 2, 4, 8, 16),
    pack_batch=8,
    rows=32,
    new_tokens=64,
)
TINY = Scale(
    shapes=("tiny", "tiny_llama"),
    dtype="float32",
    rounds=1,
    texts=((2, 24),),
    prefix_length=4,
    step_batch=2,
    step_tokens=16,
    packs=(1, 2),
    pack_batch=2,
    rows=8,
    new_tokens=3,
)

Lines = list[dict[str, Any]]
Part = Callable[[str, Scale, str], Lines]
"""Measures one shape on a device; returns a line for each measurement."""


def measure_attention(shape: str, scale: Scale, device: str) -> Lines:
    """The ways of `attention_ways.py`, with one layer's geometry."""
    geometry = random_backbone(shape, device=device, dtype=scale.dtype).geometry["decoder_self"]
    heads = random_backbone(shape, device=device, dtype=scale.dtype).config.num_attention_heads
    lines: Lines = []
    for batch, text in scale.texts:
        inputs = attention.random_inputs(
            batch=batch,
            heads=heads,
            kv_heads=geometry.num_kv_heads,
            head_dim=geometry.head_dim,
            text=text,
            prefix=scale.prefix_length,
            device=device,
            dtype=getattr(torch, scale.dtype),
        )
        about = {"batch": batch, "text": text, "prefix": scale.prefix_length}
        lines.append({**about, "accept an explicit mask": attention.accepted_backends(inputs)})
        lines += [{**about, **one} for one in _attention_lines(inputs, scale, device)]
    return lines


def _attention_lines(inputs: attention.AttentionInputs, scale: Scale, device: str) -> Lines:
    lines: Lines = []
    expected: torch.Tensor | None = None
    expected_gradients: list[torch.Tensor] = []
    for name, way in attention.ways(inputs).items():
        # On a CPU flex attention has no backward pass.
        is_differentiable = name != "flex" or torch.device(device).type == "cuda"

        def step(way: Callable[[], torch.Tensor] = way, is_differentiable: bool = is_differentiable) -> None:
            with torch.set_grad_enabled(is_differentiable):
                output = way()
                if is_differentiable:
                    attention.gradients_of(inputs, output)

        with torch.set_grad_enabled(is_differentiable):
            output = way()
        line: dict[str, Any] = {"way": name, "backward": is_differentiable}
        gradients = attention.gradients_of(inputs, output) if is_differentiable else []
        if expected is None:
            expected, expected_gradients = output, gradients
        line["difference"] = attention.largest_difference([expected], [output])
        if gradients:
            line["gradient difference"] = attention.largest_difference(expected_gradients, gradients)
        tolerance = _TOLERANCES[scale.dtype]
        line["equal"] = line["difference"] <= tolerance and line.get("gradient difference", 0.0) <= 10 * tolerance
        line["kernels"] = attention.kernels(step, device)
        line["ms"] = 1e3 * attention.seconds(step, device, scale.rounds)
        line["peak bytes"] = attention.peak_bytes(step, device)
        lines.append(line)
    if not all(line["equal"] for line in lines):
        raise RuntimeError(f"All ways of attention must have equal outputs and gradients, but they differ: {lines}")
    return lines


def _setting(shape: str, scale: Scale, device: str, *, batch_size: int, hidden_size: int, rank: int) -> Setting:
    """The setting of a training step: half of a row's tokens are its source."""
    return Setting(
        shape=shape,
        device=device,
        dtype=scale.dtype,
        batch_size=batch_size,
        source_tokens=scale.step_tokens // 2,
        target_tokens=scale.step_tokens // 2,
        prefix_length=scale.prefix_length,
        hidden_size=hidden_size,
        rank=rank,
    )


def measure_steps(shape: str, scale: Scale, device: str) -> Lines:
    """Training steps, ours and PEFT's."""
    setting = _setting(shape, scale, device, batch_size=scale.step_batch, hidden_size=512, rank=4)
    peaks: dict[str, int | None] = {}
    for name in STEP_CONTENDERS:  # each alone in memory, beside the weights that all share
        training = CONTENDERS[name].build(setting)
        training.step()
        peaks[name] = attention.peak_bytes(training.step, device)
        del training
        free(device)
    trainings = {name: CONTENDERS[name].build(setting) for name in STEP_CONTENDERS}
    check_comparable(trainings)
    turns = {name: timed(training.step) for name, training in trainings.items()}
    times = in_rounds(turns, rounds=scale.rounds, warmup=2)
    lines: Lines = []
    for name, measured in times.items():
        rival = CONTENDERS[name].rival
        line = {
            "way": CONTENDERS[name].label,
            "ms": 1e3 * statistics.median(measured),
            "peak bytes": peaks[name],
        }
        lines.append(line | ({} if rival is None else {"speed over PEFT": str(paired_ratio(times[rival], measured))}))
    return lines


def measure_packed(shape: str, scale: Scale, device: str) -> Lines:
    """A step of K trials in one pass, beside K passes."""
    setting = _setting(shape, scale, device, batch_size=scale.pack_batch, hidden_size=0, rank=0)
    lines: Lines = []
    for num_trials in scale.packs:
        trials = PackedTrials(setting, num_trials)
        together, alone = trials.losses(packed=True), trials.losses(packed=False)
        difference = max(abs(one - other) / abs(other) for one, other in zip(together, alone, strict=True))
        packed_s = attention.seconds(trials.packed_step, device, scale.rounds)
        peak = attention.peak_bytes(trials.packed_step, device)
        alone_s = attention.seconds(trials.separate_steps, device, scale.rounds)
        lines.append(
            {
                "trials": num_trials,
                "packed ms": 1e3 * packed_s,
                "separate ms": 1e3 * alone_s,
                "ratio": packed_s / alone_s,
                "peak bytes": peak,
                "difference of losses": difference,
            }
        )
        if difference > 10 * _TOLERANCES[scale.dtype]:
            raise RuntimeError(f"A trial's loss must be the same in a pack and alone, but differs: {lines[-1]}")
        trials.close()
        free(device)
    return lines


def measure_decoding(shape: str, scale: Scale, device: str) -> Lines:
    """Decoding with prefixes, beside the bare backbone."""
    backbone = random_backbone(shape, device=device, dtype=scale.dtype)
    ids = torch.randint(8000, (scale.rows, 64), generator=torch.Generator().manual_seed(1))
    prompts = prompt_batch(ids.tolist(), Padding(0)).to(device)
    new = {"max_new_tokens": scale.new_tokens, "min_new_tokens": scale.new_tokens}
    decoding = Decoding(**{**defaults_of("generation/greedy"), **new})
    rounds = max(1, scale.rounds // 3)
    times = decode_time.interleaved_times(backbone, prompts, decoding, rounds=rounds, warmup=1)
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    bare = medians[decode_time.BARE]
    return [{"way": name, "s": median, "over bare": median / bare} for name, median in medians.items()]


def measure_serving(shape: str, scale: Scale, device: str) -> Lines:
    """The server's engine: tokens per second of a mixed batch, of one prefix, and of one request at a time."""
    backbone = random_backbone(shape, device=device, dtype=scale.dtype)
    ids = torch.randint(8000, (scale.rows, 32), generator=torch.Generator().manual_seed(2)).tolist()
    workload = serving.Workload(ids, scale.new_tokens, [scale.new_tokens] * scale.rows)
    settings: Mapping[str, dict[str, Any]] = {
        "base": {"num_prefixes": 0},
        "1 prefix": {"num_prefixes": 1},
        "8 prefixes mixed": {"num_prefixes": 8},
        "8 prefixes, one at a time": {"num_prefixes": 8, "mode": "one at a time"},
    }
    lines: Lines = []
    for name, given in settings.items():
        serve = serving.our_engine(backbone, workload, length=scale.prefix_length, **given)
        serve()
        began = time.perf_counter()
        num_tokens = serve()
        lines.append({"way": name, "tokens per s": num_tokens / (time.perf_counter() - began)})
    return lines


PARTS: Mapping[str, Part] = {
    "attention": measure_attention,
    "steps": measure_steps,
    "packed": measure_packed,
    "decoding": measure_decoding,
    "serving": measure_serving,
}


def free(device: str) -> None:
    """Return unused memory to a GPU."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
