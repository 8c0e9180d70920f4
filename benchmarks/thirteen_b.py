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
import gc
import json
import queue
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.random_nf4 import random_nf4_backbone
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
from ptl_prefix.serving.engine import Engine
from ptl_prefix.serving.prefix_store import PrefixStore
from ptl_prefix.serving.request import Event, FinishEvent, GenerationRequest, Sampling
from ptl_prefix.serving.scheduler import SchedulerSettings
from ptl_prefix.settings import defaults_of
from ptl_prefix.tracking.tracking import Tracking
from ptl_prefix.training.dry_run import estimate
from ptl_prefix.training.export import export_bundle
from ptl_prefix.training.optimization import Optimization
from ptl_prefix.training.plan import Plan

_LARGE = 2**40
"""A bound that no request of this benchmark reaches."""


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


class ResidentMemory:
    """The resident memory of this process, on Linux.

    Args:
        baseline: Bytes that `peak` is compared with; those of now.
    """

    def __init__(self) -> None:
        self.baseline = self._read("VmRSS")

    def reset(self) -> None:
        """Begin a phase: the peak is the memory of now."""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def peak(self) -> int:
        """Peak bytes since `reset`."""
        return self._read("VmHWM")

    def _read(self, key: str) -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


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
        numbers = defaults_of("backbone/llama_13b") | shape | {"quantization": "bitsandbytes_4bit"}
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
        store = PrefixStore(self._folder, backbone, max_bytes=_LARGE)
        store.rescan()
        if store.problems:
            raise RuntimeError(f"Every bundle must be served, but some are not: {store.problems}.")
        bounds = {"max_rows": len(self.bundles), "max_text_bytes": _LARGE, "max_prefix_bytes": _LARGE}
        engine = Engine(backbone, store, SchedulerSettings(**bounds, chunk_tokens=512))
        engine.start()
        events: queue.Queue[Event] = queue.Queue()

        def on_event(event: Event) -> None:
            self.num_in_batch = max(self.num_in_batch, engine.status().num_running)
            events.put(event)

        source = str(TableToText().examples("test")[0]["source"])
        requests = [self._request(bundle.version, bundle.prompter, source) for bundle in store.bundles()]
        for request in requests:
            engine.submit(request, on_event)
        finished = 0
        while finished < len(requests):
            finished += isinstance(_next_event(events, engine), FinishEvent)
        prefix_bytes = store.status().prefix_bytes
        engine.stop()
        columns = max(len(request.prompt_ids) for request in requests) + self._arguments.new_tokens
        text_bytes = RowBatch.bytes_for(
            backbone, rows=len(requests), region=max(self._arguments.prefix_lengths), columns=columns
        )
        self._end(f"serve {len(requests)} in one batch", start, backbone.num_bytes + prefix_bytes + text_bytes)

    def _request(self, version: str, prompter: object, source: str) -> GenerationRequest:
        return GenerationRequest(
            request_id=version,
            version=version,
            prompt_ids=tuple(prompter.encode_source(source)),  # type: ignore[attr-defined]
            stop_ids=(),
            sampling=Sampling(max_new_tokens=self._arguments.new_tokens, temperature=0.0, top_p=1.0, seed=0),
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
            tracking=Tracking(),
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
        print(f"{name}: {phase.seconds:.0f} s, peak {peak / 1e9:.2f} GB", flush=True)


def _longest_batch(plan: Plan, backbone: Backbone) -> ModelInputs:
    """The longest training row, as often as a batch has rows: what the estimate is of."""
    prompter = backbone.prompter(plan.task.prompt)
    encoded = plan.encoded("train", backbone, prompter)
    rows = encoded.rows([int(encoded.lengths.argmax())] * plan.data.batch_size)
    return collate_training(rows, backbone.padding(prompter))


def _next_event(events: "queue.Queue[Event]", engine: Engine) -> Event:
    """The next event; a dead engine sends none."""
    while True:
        try:
            return events.get(timeout=1.0)
        except queue.Empty:
            if not engine.is_alive:
                raise RuntimeError("The engine must run until all requests are answered, but it ended.") from None


def show(benchmark: Benchmark, title: str, console: Console) -> None:
    table = Table(title=title)
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
    title = f"LLaMA-13B's shape, {arguments.layers} layers, NF4, {arguments.dtype}, batch {arguments.batch_size}"
    show(benchmark, title, Console())
    print(f"most requests in one batch: {benchmark.num_in_batch}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "title": title,
        "phases": [asdict(phase) for phase in benchmark.phases],
        "bundles": [asdict(bundle) for bundle in benchmark.bundles],
        "num_in_batch": benchmark.num_in_batch,
        "environment": environment(),
    }
    write_atomically(arguments.json, json.dumps(report, indent=2))
    print(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
