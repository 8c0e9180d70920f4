"""Measures one 13B backbone in 4 bits with three prefixes: built, trained and served on a machine of 24 GB.

    python -m benchmarks.thirteen_b                   # 40 layers
    python -m benchmarks.thirteen_b --layers 2        # two of them

In: LLaMA-13B's shape (`conf/backbone/llama_13b.yaml`) with random weights, which are made in 4 bits, and the built-in
task with three seeds of its data. Out: a table of memory, estimated by the dry run and measured; the bytes of each
bundle; seconds of each step. Each prefix is trained for some steps on the longest rows and exported as a bundle; then
the server's own engine answers one request of each bundle, in one batch.

Measured is the peak of the process's resident memory in each phase (`VmHWM`, which Linux resets on request), minus what
the process held before the weights were made: the libraries, which the estimate does not count either.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.mixed_batch import serve_together
from benchmarks.random_nf4 import random_nf4_backbone
from benchmarks.resident_memory import ResidentMemory
from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs
from ptl_prefix.backbones.row_batch import RowBatch
from ptl_prefix.backbones.shape import LlamaSpec
from ptl_prefix.data.collation import collate_training
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.tasks.table_to_text import TableToText
from ptl_prefix.evaluation.evaluate import EvaluationSettings
from ptl_prefix.evaluation.loss import target_loss
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.settings import defaults_of
from ptl_prefix.tracking.tracking import Tracking
from ptl_prefix.training.dry_run import estimate
from ptl_prefix.training.export import export_bundle
from ptl_prefix.training.optimization import Optimization
from ptl_prefix.training.plan import Plan
from ptl_prefix.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Memory of one phase.

    Args:
        name: What the process did.
        estimated_bytes: Bytes by the estimate, without the libraries.
        measured_bytes: Peak of the resident memory, without what the process held before the weights were made.
        process_bytes: Peak of the resident memory as the operating system counts it.
        seconds: Seconds of the whole phase.
        step_s: Seconds of each step: optimizer steps in training; empty otherwise.
    """

    name: str
    estimated_bytes: int
    measured_bytes: int
    process_bytes: int
    seconds: float
    step_s: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """One exported prefix.

    Args:
        name: Name of its task on the server.
        prefix_length: Positions of the prefix.
        num_stored: Parameters in the bundle.
        file_bytes: Bytes of the bundle's two files.
        losses: Loss before each step, in nats per target token.
    """

    name: str
    prefix_length: int
    num_stored: int
    file_bytes: int
    losses: tuple[float, ...]


class Benchmark:
    """The three phases, in order; `phases` and `bundles` grow.

    Args:
        arguments: Words of the command line, parsed.
        folder: Folder for the bundles.
    """

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.phases: list[Phase] = []
        self.bundles: list[Bundle] = []
        self.num_in_batch = 0
        self._arguments, self._folder = arguments, folder
        shape = {"num_hidden_layers": arguments.layers, "dtype": arguments.dtype, "device": "cpu"}
        if arguments.width is not None:
            shape |= {"hidden_size": arguments.width, "intermediate_size": 2 * arguments.width, "vocab_size": 8192}
            shape |= dict.fromkeys(("num_attention_heads", "num_key_value_heads"), arguments.width // 64)
            shape |= {"head_dim": 64}
        numbers = {**defaults_of("backbone/llama_13b"), **shape, "quantization": "bitsandbytes_4bit"}
        self.spec = LlamaSpec(**numbers)
        self._memory = ResidentMemory()

    def run(self) -> None:
        """Build, train and serve."""
        start = self._begin()
        backbone = random_nf4_backbone(self.spec, seed=0)
        self._end("build", start, self.spec.load_shape().num_bytes)
        start = self._begin()
        _ = backbone.identity  # the hash of all weights, which the bundles name
        self._end("hash", start, backbone.num_bytes)
        for number, length in enumerate(self._arguments.prefix_lengths):
            self._train(backbone, number, length)
        self._serve(backbone)

    def write(self) -> None:
        """Write what has been measured."""
        report = {
            "title": self.title,
            "phases": [asdict(phase) for phase in self.phases],
            "bundles": [asdict(bundle) for bundle in self.bundles],
            "num_in_batch": self.num_in_batch,
            "environment": environment(),
        }
        self._arguments.json.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._arguments.json, json.dumps(report, indent=2))

    @property
    def title(self) -> str:
        """What is measured, in one line."""
        own = self._arguments
        return f"LLaMA-13B's shape, {own.layers} layers, NF4, {own.dtype}, batch {own.batch_size}"

    def _train(self, backbone: Backbone, number: int, prefix_length: int) -> None:
        plan = self._plan(number, prefix_length)
        estimated = estimate(plan).memory_bytes
        start = self._begin()
        torch.manual_seed(number)
        method = PrefixTuning(prefix_length=prefix_length, reparam="none").attach(backbone)
        batch = _longest_batch(plan, backbone)
        optimizer = plan.optimization.optimizer([(method.default_lr, method.trainable_parameters().values())])
        losses, step_s = [], []
        for _ in range(self._arguments.steps):
            step_start = time.perf_counter()
            optimizer.zero_grad()
            loss = target_loss(backbone, method, batch)
            (loss.nats / loss.num_tokens).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.nats.detach()) / loss.num_tokens)
            step_s.append(time.perf_counter() - step_start)
            print(f"  length {prefix_length}: loss {losses[-1]:.4f}, {step_s[-1]:.1f} s", flush=True)
        self._end(f"train, prefix of {prefix_length}", start, estimated, step_s)
        name = f"length-{prefix_length}"
        folder = self._folder / name
        prompter = backbone.prompter(plan.task.prompt)
        export_bundle(
            folder,
            backbone=backbone,
            method=method.eval(),
            task=plan.task,
            prompter=prompter,
            decoding=plan.decoding,
            metrics={},
        )
        file_bytes = sum(path.stat().st_size for path in folder.iterdir())
        self.bundles.append(
            Bundle(
                name=name,
                prefix_length=prefix_length,
                num_stored=method.num_stored,
                file_bytes=file_bytes,
                losses=tuple(losses),
            )
        )
        method.detach()

    def _serve(self, backbone: Backbone) -> None:
        start = self._begin()
        source = str(TableToText().examples("test")[0]["source"])
        served = serve_together(backbone, self._folder, source, new_tokens=self._arguments.new_tokens)
        self.num_in_batch = served.num_in_batch
        text_bytes = RowBatch.bytes_for(
            backbone,
            rows=len(self.bundles),
            region=max(self._arguments.prefix_lengths),
            columns=served.num_columns,
        )
        self._end(
            f"serve {len(self.bundles)} in one batch", start, backbone.num_bytes + served.prefix_bytes + text_bytes
        )

    def _plan(self, number: int, prefix_length: int) -> Plan:
        return Plan(
            seed=number,
            run_id=f"length-{prefix_length}",
            backbone=self.spec,
            task=TableToText(data_seed=number),
            method=PrefixTuning(prefix_length=prefix_length, reparam="none"),
            data=DataSettings(batch_size=self._arguments.batch_size),
            optimization=Optimization(),
            trainer={"max_steps": self._arguments.steps, "max_epochs": -1},
            decoding=Decoding(**defaults_of("generation/greedy")),
            evaluation=EvaluationSettings(),
            training=TrainingSettings(),
            tracking=Tracking(),
            routing="none",
            config={},
        )

    def _begin(self) -> float:
        self._memory.reset()
        return time.perf_counter()

    def _end(self, name: str, start: float, estimated: int, step_s: Sequence[float] = ()) -> None:
        peak = self._memory.peak()
        phase = Phase(
            name=name,
            estimated_bytes=estimated,
            measured_bytes=peak - self._memory.baseline,
            process_bytes=peak,
            seconds=time.perf_counter() - start,
            step_s=tuple(step_s),
        )
        self.phases.append(phase)
        self.write()  # a run that is killed, as for memory, leaves what it has measured
        print(f"{name}: {phase.seconds:.0f} s, peak {peak / 1e9:.2f} GB", flush=True)


def _longest_batch(plan: Plan, backbone: Backbone) -> ModelInputs:
    """The longest training row, as often as a batch has rows: what the estimate is of."""
    prompter = backbone.prompter(plan.task.prompt)
    encoded = plan.encoded("train", backbone, prompter)
    rows = encoded.rows([int(encoded.lengths.argmax())] * plan.data.batch_size)
    return collate_training(rows, backbone.padding(prompter))


def show(benchmark: Benchmark, console: Console) -> None:
    table = Table(title=benchmark.title)
    for heading in ("phase", "estimated GB", "measured GB", "process GB", "s", "s of each step"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase in benchmark.phases:
        sizes = (phase.estimated_bytes, phase.measured_bytes, phase.process_bytes)
        steps = ", ".join(f"{seconds:.1f}" for seconds in phase.step_s)
        table.add_row(phase.name, *(f"{size / 1e9:.2f}" for size in sizes), f"{phase.seconds:.0f}", steps)
    console.print(table)
    table = Table(title="the bundles")
    for heading in ("bundle", "parameters", "MB", "loss before each step"):
        table.add_column(heading, justify="left" if heading == "bundle" else "right")
    for bundle in benchmark.bundles:
        losses = ", ".join(f"{loss:.4f}" for loss in bundle.losses)
        table.add_row(bundle.name, f"{bundle.num_stored:,}", f"{bundle.file_bytes / 1e6:.1f}", losses)
    console.print(table)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--width", type=int, help="width of the embeddings, a multiple of 64, with a small vocabulary")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--prefix-lengths", type=int, nargs="+", default=[2, 10, 100])
    parser.add_argument("--steps", type=int, default=2, help="number of optimizer steps for each prefix")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument(
        "--new-tokens", type=int, default=4, help="number of tokens that are generated for each request"
    )
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/thirteen_b.json"))
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(arguments, Path(folder))
        benchmark.run()
    show(benchmark, Console())
    print(f"most requests in one batch: {benchmark.num_in_batch}")
    print(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
