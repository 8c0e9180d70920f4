"""Everything that only a GPU can show, in one command of at most ten minutes.

    python -m benchmarks.gpu_day                                  # GPT-2 medium's and a 1B LLaMA's shape, on `cuda`
    python -m benchmarks.gpu_day --device cpu --tiny              # the same code with tiny shapes, in a minute or two
    python -m benchmarks.gpu_day --only attention packed

In: shapes with random weights, and batches of random ids; nothing is downloaded. Out: a line for each measurement as
soon as it is made, and a JSON report that is written again after each part. A part that fails is told with its
traceback and does not keep the others from running; the exit code is then 1. A part is left out once `--limit-s` is
over.

- `attention`: which kernel runs with an explicit mask, flex attention, and attention in two parts that are joined by
  their log-sum-exps; whether outputs and gradients are equal; seconds and memory forward and backward;
- `steps`: a training step's time and peak memory, ours beside PEFT's prefix with the same parameters;
- `packed`: a step of K trials in one pass, as a pack computes it, beside K passes of one trial each;
- `decoding`: decoding with prefixes beside the bare backbone;
- `serving`: the server's engine with one prefix, with eight in one batch, and one request at a time.

It needs torch, transformers, PEFT, jaxtyping, matplotlib, rich and pydantic (with pydantic-core, annotated-types and
typing-inspection), but neither Lightning nor what commands and studies need, such as Hydra, Optuna, W&B and datasets.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts import PARTS, TINY, WHOLE, free
from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import environment


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def main(words: Sequence[str] | None = None) -> int:
    """Measure the chosen parts, one shape after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and one round, to test the code")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--limit-s", type=float, default=540.0, help="seconds after which no further part begins")
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/gpu_day.json"))
    options = parser.parse_args(words)
    scale = TINY if options.tiny else WHOLE
    began, failed = time.monotonic(), []
    report: dict[str, Any] = {"scale": asdict(scale), "environment": environment(), "parts": {}, "left_out": []}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    for part in options.only:
        for shape in scale.shapes:
            name = f"{part}, {shape}"
            if time.monotonic() - began > options.limit_s:
                report["left_out"].append(name)
                print(f"{name}: left out, as {options.limit_s:.0f} s are over", flush=True)
                continue
            try:
                lines = PARTS[part](shape, scale, options.device)
            except Exception:
                failed.append(name)
                lines = [{"error": traceback.format_exc()}]
            for line in lines:
                print(f"{name}: " + ", ".join(f"{key} {_shown(value)}" for key, value in line.items()), flush=True)
            report["parts"][name] = lines
            report["seconds"] = time.monotonic() - began
            write_atomically(options.json, json.dumps(report, indent=1) + "\n")
            free(options.device)
    print(f"{time.monotonic() - began:.0f} s, written to {options.json}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
