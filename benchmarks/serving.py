"""Compares the server's engine with serving the same requests in other ways.

    python -m benchmarks.serving                     # GPT-2-small shape, 32 requests over 8 tasks
    python -m benchmarks.serving --shape small_llama --prefix-length 32

In: a shape with random weights, prefixes and prompts of random numbers. Out: for each contender, the median of tokens
per second, and ratios. All contenders share one model, generate greedily, and have the same prompts; each round runs
them in a random order, so that a slow period of the machine affects all of them.

Contenders, 32 requests each unless the name says otherwise:

- `base`, `mixed`, `N prefixes`: our engine; the bare base; 8 tasks in one batch; other numbers of distinct prefixes,
  evenly, or so that half of the requests have the first one;
- `one at a time`: our engine, each request after the other;
- `transformers`: `generate` of the bare base on one padded batch;
- `base, 4 to 64 tokens`, `transformers, 4 to 64 tokens`: answers of unequal length; `generate` waits for the longest;
- `PEFT, switching`: PEFT's prefix adapters, one batch per task, as its adapters cannot be mixed in one batch;
- `PEFT, mixed LoRA`: PEFT's LoRA of rank 8 with `adapter_names`, the one adapter that PEFT mixes in a batch.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.peft_configs import lora_config, prefix_config
from benchmarks.peft_prefix import wrapped
from benchmarks.report import write_report
from benchmarks.rounds import add_limit, in_rounds
from benchmarks.serving_engine import MemoryStore, ask, random_prefix, running
from benchmarks.shapes import SHAPES, random_backbone
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import left_padded

_VOCABULARY = 8000
_NUM_TASKS = 8
_RATIOS = (
    ("mixed", "base", ">= 0.95"),
    ("mixed", "one at a time", ">= 8"),
    ("mixed", "PEFT, switching", ""),
    ("mixed", "PEFT, mixed LoRA", ""),
    ("base", "transformers", ">= 1.0"),
    ("base, 4 to 64 tokens", "transformers, 4 to 64 tokens", ">= 1.3"),
    ("8 prefixes", "1 prefix", ">= 0.9"),
    ("64 prefixes", "1 prefix", ">= 0.9"),
    ("512 prefixes", "1 prefix", ">= 0.9"),
    ("64 prefixes, half of one", "1 prefix", ">= 0.9"),
)
"""Contender, what it is compared with, and the goal."""


@dataclass(frozen=True)
class Workload:
    """What is generated.

    Args:
        prompts: Token ids of each request.
        num_new: Number of tokens to generate for each request.
        unequal_new: The same for the contenders with answers of unequal length.
    """

    prompts: list[list[int]]
    num_new: int
    unequal_new: list[int]


Contender = Callable[[], int]
"""Serves the workload; returns the number of generated tokens."""


def our_engine(
    backbone: Backbone, workload: Workload, *, num_prefixes: int, length: int, mode: str = "even"
) -> Contender:
    """Our engine with a number of distinct prefixes; 0 is the bare base.

    Args:
        backbone: The backbone.
        workload: What is generated.
        num_prefixes: Number of distinct prefixes in the store. With more than requests, every request has its own.
        length: Length of each prefix.
        mode: `even`, `half of one`, `one at a time`, or `unequal` answers.
    """
    prefixes = {str(number): random_prefix(backbone, length, seed=number) for number in range(num_prefixes)}
    num_rows = len(workload.prompts)
    step = max(1, num_prefixes // num_rows)
    versions = [str(index * step % num_prefixes) if num_prefixes else None for index in range(num_rows)]
    if mode == "half of one":
        versions = ["0" if index % 2 else version for index, version in enumerate(versions)]
    new = workload.unequal_new if mode == "unequal" else [workload.num_new] * num_rows

    def serve() -> int:
        with running(backbone, MemoryStore(prefixes), max_rows=num_rows) as engine:
            answers = []
            for version, prompt, num_new in zip(versions, workload.prompts, new, strict=True):
                answers.append(ask(engine, version, prompt, num_new))
                if mode == "one at a time":
                    answers[-1].is_finished.wait()
            for answer in answers:
                answer.is_finished.wait()
        return sum(len(answer.token_times_s) for answer in answers)

    return serve


def _generate(model: Any, prompts: Sequence[Sequence[int]], num_new: int, **more: Any) -> None:
    inputs = left_padded(prompts, 0)
    with torch.no_grad():
        model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            max_new_tokens=num_new,
            min_new_tokens=num_new,
            do_sample=False,
            pad_token_id=0,
            use_cache=True,
            **more,
        )


def transformers_generate(backbone: Backbone, workload: Workload, *, is_unequal: bool = False) -> Contender:
    """`generate` of the bare base; of answers of unequal length only the asked tokens count."""

    def serve() -> int:
        new = workload.unequal_new if is_unequal else [workload.num_new] * len(workload.prompts)
        _generate(backbone.model, workload.prompts, max(new))
        return sum(new)

    return serve


def peft_switching(backbone: Backbone, workload: Workload, *, length: int) -> Contender:
    """PEFT's prefix adapters, one per task, one batch per task."""
    config = prefix_config(prefix_length=length)
    model = wrapped(backbone.model, config).eval()
    for number in range(1, _NUM_TASKS):
        model.add_adapter(f"task{number}", config)

    def serve() -> int:
        for number in range(_NUM_TASKS):
            if prompts := workload.prompts[number::_NUM_TASKS]:
                model.set_adapter("default" if number == 0 else f"task{number}")
                _generate(model, prompts, workload.num_new)
        return workload.num_new * len(workload.prompts)

    return serve


def peft_mixed_lora(backbone: Backbone, workload: Workload) -> Contender:
    """PEFT's LoRA adapters of rank 8, mixed in one batch."""
    config = lora_config(backbone, rank=8)
    model = wrapped(backbone.model, config).eval()
    for number in range(1, _NUM_TASKS):
        model.add_adapter(f"task{number}", config)
    adapters = [
        "default" if row % _NUM_TASKS == 0 else f"task{row % _NUM_TASKS}" for row in range(len(workload.prompts))
    ]

    def serve() -> int:
        _generate(model, workload.prompts, workload.num_new, adapter_names=adapters)
        return workload.num_new * len(workload.prompts)

    return serve


def contenders(arguments: argparse.Namespace, dtype: str) -> dict[str, Contender]:
    """All contenders by name."""
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(1, _VOCABULARY, (arguments.rows, arguments.prompt_tokens), generator=generator).tolist()
    unequal = torch.randint(4, 65, (arguments.rows,), generator=generator).tolist()
    workload = Workload(prompts, arguments.new_tokens, unequal)

    def backbone() -> Backbone:
        return random_backbone(arguments.shape, device="cpu", dtype=dtype)

    own, length = backbone(), arguments.prefix_length

    def ours(num_prefixes: int, mode: str = "even") -> Contender:
        return our_engine(own, workload, num_prefixes=num_prefixes, length=length, mode=mode)

    return {
        "base": ours(0),
        "mixed": ours(_NUM_TASKS),
        "one at a time": ours(_NUM_TASKS, "one at a time"),
        "base, 4 to 64 tokens": ours(0, "unequal"),
        "1 prefix": ours(1),
        "8 prefixes": ours(8),
        "64 prefixes": ours(64),
        "64 prefixes, half of one": ours(64, "half of one"),
        "512 prefixes": ours(512),
        "transformers": transformers_generate(backbone(), workload),
        "transformers, 4 to 64 tokens": transformers_generate(backbone(), workload, is_unequal=True),
        "PEFT, switching": peft_switching(backbone(), workload, length=length),
        "PEFT, mixed LoRA": peft_mixed_lora(backbone(), workload),
    }


def tokens_per_s(
    all_contenders: Mapping[str, Contender], *, rounds: int, limit_s: float = float("inf")
) -> dict[str, list[float]]:
    """Tokens per second of every contender in each round, after one round that is not counted."""

    def rate(serve: Contender) -> float:
        began = time.perf_counter()
        return serve() / (time.perf_counter() - began)

    turns = {name: partial(rate, serve) for name, serve in all_contenders.items()}
    return in_rounds(turns, rounds=rounds, warmup=1, limit_s=limit_s)


def ratios(found: Mapping[str, Sequence[float]]) -> list[tuple[str, str, float, float, float, str]]:
    """For each pair: the median, least and largest of the ratio within a round, and the goal."""
    rows = []
    for one, other, goal in _RATIOS:
        if one in found and other in found:
            paired = [a / b for a, b in zip(found[one], found[other], strict=True)]
            rows.append((one, other, statistics.median(paired), min(paired), max(paired), goal))
    return rows


def show(found: Mapping[str, Sequence[float]], title: str, console: Console) -> None:
    """Print tokens per second and ratios."""
    table = Table(title=title)
    for heading in ("contender", "median tokens/s", "slowest", "fastest"):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    for name, rates in found.items():
        table.add_row(name, f"{statistics.median(rates):.0f}", f"{min(rates):.0f}", f"{max(rates):.0f}")
    console.print(table)
    table = Table(title="tokens/s of one contender over another's, within each round")
    for heading in ("contender", "over", "median", "least", "largest", "goal"):
        table.add_column(heading, justify="left" if heading in ("contender", "over") else "right")
    for one, other, median, least, largest, goal in ratios(found):
        table.add_row(one, other, f"{median:.3f}", f"{least:.3f}", f"{largest:.3f}", goal)
    console.print(table)


def draw(found: Mapping[str, Sequence[float]], title: str, path: Path) -> None:
    """Draw the median of each contender, with the slowest and the fastest round."""
    figure = Figure(figsize=(8, 0.9 + 0.3 * len(found)), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots()
    names = list(found)[::-1]
    medians = [statistics.median(found[name]) for name in names]
    spans = [
        [abs(median - end(found[name])) for name, median in zip(names, medians, strict=True)] for end in (min, max)
    ]
    colours = ["C1" if name.startswith(("PEFT", "transformers")) else "C0" for name in names]
    bars = axes.barh(names, medians, xerr=spans, color=colours, error_kw={"elinewidth": 1, "capsize": 2})
    axes.bar_label(bars, [f"{median:.0f}" for median in medians], padding=6, fontsize=8)
    axes.margins(x=0.08)
    axes.set(xlabel="tokens per second")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="gpt2")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--prefix-length", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="number of measured rounds")
    parser.add_argument("--only", nargs="+", help="names of contenders; all by default")
    add_limit(parser)
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/serving.json"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    chosen = contenders(arguments, arguments.dtype)
    if arguments.only:
        chosen = {name: chosen[name] for name in arguments.only}
    found = tokens_per_s(chosen, rounds=arguments.rounds, limit_s=arguments.limit_s)
    title = (
        f"{arguments.rows} requests, {arguments.prompt_tokens} + {arguments.new_tokens} tokens, prefixes of "
        f"{arguments.prefix_length}: {arguments.shape} shape, {arguments.dtype}, CPU"
    )
    show(found, title, Console())
    write_report(arguments.json, {"title": title, "tokens_per_s": found, "ratios": ratios(found)})
    draw(found, title, arguments.json.with_suffix(".svg"))


if __name__ == "__main__":
    main()
