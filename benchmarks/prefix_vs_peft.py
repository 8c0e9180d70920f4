"""Compares the validation loss of our prefix-tuning and PEFT's on the same batches.

    python -m benchmarks.prefix_vs_peft --task e2e_nlg --data-dir $PTL_PREFIX_DATA/data/e2e --steps 2000

In: a backbone, a task, a number of steps. Out: a table of validation losses, in nats per target token, and a JSON file
with the loss curves.

Every contender has the same batches in the same order, optimizer, schedule, gradient clipping and number of steps; one
function computes every loss, on the same validation rows. There are two learning rates, the same for ours and
PEFT's: one for prefixes with an MLP, one for plain tables. The seed determines initialisation and batch order. Nothing
is tuned.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.peft_prefix import PeftPrefix
from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import environment
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.model_inputs import ModelInputs, Padding
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.backbones.spec import load_backbone
from ptl_prefix.data.batches import EvalBatches, TrainBatches
from ptl_prefix.data.encoded_split import EncodedSplit
from ptl_prefix.data.encoding import encode_split
from ptl_prefix.data.settings import DataSettings
from ptl_prefix.data.task import Task
from ptl_prefix.data.tasks.e2e_nlg import E2ENLG
from ptl_prefix.data.tasks.table_to_text import TableToText
from ptl_prefix.evaluation.loss import mean_loss, target_loss
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.no_adaptation import NoAdaptation
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.training.optimization import Optimization

_WARMUP_SHARE, _MAX_WARMUP_STEPS = 0.1, 50
_CLIP_NORM = 1.0


@dataclass(frozen=True)
class Contender:
    """One way of training a prefix.

    Args:
        label: Name in the table.
        lr: Learning rate.
        build: Wraps a newly loaded backbone, and draws from torch's random state.
    """

    label: str
    lr: float
    build: Callable[[Backbone], "Trainee"]


@dataclass(frozen=True)
class Trainee:
    """A backbone with a method: its loss is `target_loss(backbone, method, batch)`, and it trains `parameters`."""

    backbone: Backbone
    method: Method
    parameters: Mapping[str, nn.Parameter]


@dataclass(frozen=True, kw_only=True)
class Result:
    """The validation losses of one contender with one seed, by step; step 0 is before training."""

    label: str
    seed: int
    lr: float
    num_trained: int
    val_loss_by_step: dict[int, float]


@dataclass(frozen=True)
class Splits:
    """The training and validation rows of all contenders."""

    train: EncodedSplit
    validation: EvalBatches


def contenders(arguments: argparse.Namespace) -> dict[str, Contender]:
    """All contenders, by their names for `--only`."""
    length, width = arguments.prefix_length, arguments.reparam_hidden_size
    lr_mlp, lr_none = arguments.lr_mlp, arguments.lr_none
    return {
        "mlp": Contender("ours, reparam=mlp", lr_mlp, _ours(length, width, "mlp")),
        "peft_projection": Contender("PEFT, with projection", lr_mlp, _peft(length, width)),
        "none": Contender("ours, reparam=none", lr_none, _ours(length, width, "none")),
        "peft": Contender("PEFT, without projection", lr_none, _peft(length, None)),
        "linear": Contender("ours, reparam=linear", lr_mlp, _ours(length, width, "linear")),
        "mlp_zero_values": Contender("ours, mlp, init=zero_values", lr_mlp, _ours(length, width, "mlp", "zero_values")),
        "none_zero_values": Contender(
            "ours, none, init=zero_values", lr_none, _ours(length, width, "none", "zero_values")
        ),
        "upper_half": Contender("ours, none, upper half", lr_none, _ours(length, width, "none", share=0.5)),
        "upper_quarter": Contender("ours, none, upper quarter", lr_none, _ours(length, width, "none", share=0.25)),
    }


_DEFAULT = ("mlp", "peft_projection", "none", "peft")


def _ours(
    length: int, width: int, reparam: str, init: str = "random", share: float = 1.0
) -> Callable[[Backbone], Trainee]:
    """Ours in a share of the layers, the upper ones."""

    def build(backbone: Backbone) -> Trainee:
        depth = backbone.geometry["decoder_self"].num_layers
        method = PrefixTuning(
            prefix_length=length,
            reparam=reparam,
            reparam_hidden_size=width,
            init=init,
            position_law="shifted",
            layers=None if share == 1.0 else list(range(depth - max(1, round(share * depth)), depth)),
        )
        method.attach(backbone)
        return Trainee(backbone, method, method.trainable_parameters())

    return build


def _peft(length: int, width: int | None) -> Callable[[Backbone], Trainee]:
    def build(backbone: Backbone) -> Trainee:
        behind_peft = PeftPrefix(backbone, prefix_length=length, hidden_size=width)
        return Trainee(behind_peft, NoAdaptation().attach(behind_peft), behind_peft.trainable_parameters())

    return build


def run(contender: Contender, splits: Splits, seed: int, arguments: argparse.Namespace) -> Result:
    """Train one contender with one seed, and validate it regularly."""
    backbone = load_backbone(arguments.backbone, dtype=arguments.dtype, device=arguments.device)
    torch.manual_seed(seed)
    trainee = contender.build(backbone)
    losses = {0: mean_loss(trainee.backbone, trainee.method, splits.validation)}
    batches = TrainBatches(splits.train, batch_size=arguments.batch_size, padding=Padding(backbone.pad_id), seed=seed)
    optimization = _optimization(contender.lr, arguments.steps)
    optimizer = optimization.optimizer([(contender.lr, trainee.parameters.values())])
    scheduler = optimization.scheduler(optimizer, arguments.steps)
    for step, batch in zip(range(1, arguments.steps + 1), _endless(batches), strict=False):
        loss = target_loss(trainee.backbone, trainee.method, batch.to(backbone.device))
        (loss.nats / loss.num_tokens).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trainee.parameters.values(), _CLIP_NORM)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step % arguments.val_check_interval == 0 or step == arguments.steps:
            losses[step] = mean_loss(trainee.backbone, trainee.method, splits.validation)
    return Result(
        label=contender.label,
        seed=seed,
        lr=contender.lr,
        num_trained=sum(parameter.numel() for parameter in trainee.parameters.values()),
        val_loss_by_step=losses,
    )


def _optimization(lr: float, steps: int) -> Optimization:
    return Optimization(lr=lr, warmup_steps=min(_MAX_WARMUP_STEPS, int(_WARMUP_SHARE * steps)))


def _endless(batches: TrainBatches) -> Iterator[ModelInputs]:
    while True:
        yield from batches


def load_splits(backbone: Backbone, arguments: argparse.Namespace) -> Splits:
    """Encode the task's rows; each leaves enough positions for the prefix."""
    settings = DataSettings(batch_size=arguments.batch_size)
    task = _task(arguments)
    prompter = Prompter(backbone.tokenizer, task.prompt)
    max_tokens = None if backbone.max_positions is None else backbone.max_positions - arguments.prefix_length
    train = encode_split(task, "train", prompter, max_tokens=max_tokens, settings=settings)
    validation = encode_split(task, "validation", prompter, max_tokens=max_tokens, settings=settings)
    return Splits(
        train,
        EvalBatches(
            validation,
            batch_size=settings.eval_batch_size,
            padding=Padding(backbone.pad_id),
            num_rows=arguments.validation_rows,
        ),
    )


def _task(arguments: argparse.Namespace) -> Task:
    task: Task = E2ENLG(data_dir=arguments.data_dir) if arguments.task == "e2e_nlg" else TableToText()
    return task


def show(results: Sequence[Result], bare: float, console: Console) -> None:
    """Print one row per contender: the mean over seeds, and their standard deviation if there are several."""
    table = Table(title="validation loss, nats per target token")
    for heading in ("method", "lr", "trainable params", "start", "end", "std over seeds (n)"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    table.add_row("bare backbone", "", "0", "", f"{bare:.4f}", "")
    for label in dict.fromkeys(result.label for result in results):
        own = [result for result in results if result.label == label]
        starts = [result.val_loss_by_step[0] for result in own]
        ends = [result.val_loss_by_step[max(result.val_loss_by_step)] for result in own]
        spread = f"{statistics.stdev(ends):.4f} ({len(ends)})" if len(ends) > 1 else ""
        numbers = (f"{statistics.mean(starts):.4f}", f"{statistics.mean(ends):.4f}", spread)
        table.add_row(label, f"{own[0].lr:g}", f"{own[0].num_trained:,}", *numbers)
    console.print(table)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tiny_gpt2", help="an embedded backbone, a local folder or a hub name")
    parser.add_argument("--task", choices=("e2e_nlg", "table_to_text"), default="table_to_text")
    parser.add_argument("--data-dir", help="E2E's folder; without it, e2e_nlg comes from the hub")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--prefix-length", type=int, default=10)
    parser.add_argument("--reparam-hidden-size", type=int, default=512, help="hidden size of the MLP, here and in PEFT")
    parser.add_argument("--lr-mlp", type=float, default=1e-3)
    parser.add_argument("--lr-none", type=float, default=1e-2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--validation-rows", type=int, default=640, help="number of rows, evenly spread over the split")
    parser.add_argument("--val-check-interval", type=int, default=500, help="steps between validations")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="dtype of the backbone"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument("--only", nargs="+", help=f"names of contenders; default: {' '.join(_DEFAULT)}")
    parser.add_argument("--json", type=Path, default=Path("outputs/benchmarks/prefix_vs_peft.json"))
    arguments = parser.parse_args(words)
    known = contenders(arguments)
    arguments.only = arguments.only or list(_DEFAULT)
    if unknown := [name for name in arguments.only if name not in known]:
        parser.error(f"--only must contain names of contenders ({', '.join(known)}), but found {', '.join(unknown)}")
    return arguments


def main(words: Sequence[str] | None = None) -> None:
    arguments = parse(words)
    console = Console()
    backbone = load_backbone(arguments.backbone, dtype=arguments.dtype, device=arguments.device)
    splits = load_splits(backbone, arguments)
    bare = mean_loss(backbone, NoAdaptation().attach(backbone), splits.validation)
    console.print(f"{backbone.name}, {backbone.dtype}, {arguments.task}: bare {bare:.4f} nats per target token")
    known, results = contenders(arguments), []
    for seed in arguments.seeds:
        for name in arguments.only:
            results.append(run(known[name], splits, seed, arguments))
            console.print(f"{name}, seed {seed}: {results[-1].val_loss_by_step}")
    show(results, bare, console)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in vars(arguments).items() if key not in ("json", "data_dir")}
    report = {"settings": settings, "dtype": str(backbone.dtype), "bare": bare, "environment": environment()}
    write_atomically(arguments.json, json.dumps({**report, "results": [asdict(r) for r in results]}, indent=2))
    console.print(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
