"""How well validations on a nested subset rank runs: agreement of the subset's order with that of the whole split.

    python -m benchmarks.rung_ranking outputs/sweeps/<study>/*/ --sizes 25 50 100 200
    python -m benchmarks.rung_ranking --data $PTL_PREFIX_DATA/data        # trains a small study on E2E first
    python -m benchmarks.rung_ranking --data $PTL_PREFIX_DATA/data --whole-examples 300

In: folders of finished runs of one task, such as the trials of a study, and sizes of `training.validation_examples`;
or a folder of real data, on which the embedded backbone trains 12 prefixes for some steps: three lengths, two learning
rates, two seeds. A larger subset, which holds the others, can stand for the whole split.

Out: for each size, over the runs' best checkpoints: Kendall's tau-b and Spearman's rho between their losses on the
subset and on the whole split, whether the same run is the best (top-1), and how much worse on the whole split the
subset's best run is, in nats per target token. Intervals of 95% come from a bootstrap over the runs: they say how far
other runs of this kind could be ranked otherwise, and not what another subset would do.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from benchmarks import run_sections
from benchmarks.local_backbone import TrainCommand
from benchmarks.report import finish
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.config.build_plan import build_plan, read_run_config
from ptl_prefix.data.batches import EvalBatches
from ptl_prefix.evaluation.loss import mean_loss
from ptl_prefix.training.export import load_trained_state
from ptl_prefix.training.plan_problems import start_inputs
from ptl_prefix.training.run_inputs import load_run_inputs

_TRAIN_EXAMPLES = 500
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value with its interval of 95%; NaN where all losses are equal."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Agreement:
    """How the order of runs by a subset agrees with that by the whole split.

    Args:
        kendall: Kendall's tau-b.
        spearman: Spearman's rho.
        top_1: 1 if the same run is the best, else 0; the interval's ends are the share of resamples with the same one.
        regret: Loss on the whole split of the subset's best run, less that of the best run.
    """

    kendall: Interval
    spearman: Interval
    top_1: Interval
    regret: Interval


def agreement(subset: Sequence[float], whole: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Agreement:
    """Compare two orders of the same runs; smaller losses are better.

    Args:
        subset: Loss of each run on the subset.
        whole: Loss of each run on the whole split.
        resamples: Number of resamples of the bootstrap.
        seed: Seed of the resamples.

    Raises:
        ValueError: There are fewer than three runs.
    """
    if len(subset) < 3 or len(subset) != len(whole):
        raise ValueError(
            f"There must be losses of at least three runs on both, but got {len(subset)} and {len(whole)}."
        )
    pairs = np.array([subset, whole], dtype=np.float64)
    draws = np.random.default_rng(seed).integers(pairs.shape[1], size=(resamples, pairs.shape[1]))
    found = np.array([_statistics(pairs[:, draw]) for draw in draws])
    values = _statistics(pairs)
    kendall, spearman, top_1, regret = (_interval(value, column) for value, column in zip(values, found.T, strict=True))
    share = float(found[:, 2].mean())
    return Agreement(kendall, spearman, Interval(top_1.value, share, share), regret)


def _statistics(pairs: Numbers) -> tuple[float, float, float, float]:
    subset, whole = pairs
    best = int(np.argmin(subset))
    regret = float(whole[best] - whole.min())
    if len(set(subset)) < 2 or len(set(whole)) < 2:
        return math.nan, math.nan, float(regret == 0.0), regret
    kendall, spearman = stats.kendalltau(subset, whole).statistic, stats.spearmanr(subset, whole).statistic
    return float(kendall), float(spearman), float(regret == 0.0), regret


def _interval(value: float, resampled: Numbers) -> Interval:
    known = resampled[~np.isnan(resampled)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (math.nan, math.nan)
    return Interval(value, float(low), float(high))


def train_study(data: Path, steps: int, cwd: Path) -> list[Path]:
    """Train a small study on E2E; return the folders of its trials."""
    words = [
        "-m",
        "task=e2e_nlg",
        f"task.data_dir={(data / 'e2e').resolve()}",
        f"task.num_train_examples={_TRAIN_EXAMPLES}",
        "backbone.device=cpu",
        "data.batch_size=8",
        "method.reparam=none",
        "method.prefix_length=2,10,40",
        "optimizer.lr=0.001,0.01",
        "seed=1,2",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={steps}",
        "trainer.limit_val_batches=1",
        "evaluation.num_examples=2",
        "evaluation.compare_bare=false",
        "evaluation.retention=false",
        "generation.max_new_tokens=4",
        "tracking=none",
        "hydra.sweeper.reuse=false",
        "hydra.sweep.dir=study",
    ]
    TrainCommand(words, cwd).wait()
    return sorted((cwd / "study").glob("*/"))


def measure_losses(
    folder: RunFolder, sizes: Sequence[int], whole_examples: int | None = None
) -> dict[int | None, float]:
    """The loss of a run's best checkpoint on subsets of the validation split, and under `None` on the whole split.

    Args:
        folder: A finished run.
        sizes: Examples of each subset.
        whole_examples: Examples of the subset that stands for the whole split; `None` takes the split.
    """
    plan = build_plan(read_run_config(folder))
    inputs = load_run_inputs(plan)
    backbone = inputs.backbone
    validation = plan.encoded("validation", backbone, inputs.prompter)
    plan.method.provide_start_inputs(start_inputs(plan.task, inputs.training_rows))
    plan.method.skip_start()
    plan.method.attach(backbone)

    def loss_on(examples: int | None) -> float:
        subset = EvalBatches(
            validation,
            batch_size=plan.data.eval_batch_size,
            padding=backbone.padding(inputs.prompter),
            layout=plan.validation_layout(backbone),
            num_examples=examples,
        )
        return mean_loss(backbone, plan.method, subset)

    try:
        load_trained_state(plan.method, folder.best)
        return {None: loss_on(whole_examples), **{size: loss_on(size) for size in sizes}}
    finally:
        plan.method.detach()


def main(words: Sequence[str] | None = None) -> dict[int, Agreement]:
    """Measure the runs, print a table and write a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs; others are left out")
    parser.add_argument("--data", type=Path, help="folder with e2e, to train runs on first")
    parser.add_argument("--steps", type=int, default=60, help="steps of these runs")
    parser.add_argument("--sizes", nargs="+", type=int, default=[25, 50, 100, 200])
    parser.add_argument("--whole-examples", type=int, help="examples that stand for the whole split; default: all")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--out", "--json", dest="out", type=Path, default=Path("outputs/benchmarks/rung_ranking.json"))
    options = parser.parse_args(words)
    if bool(options.runs) == bool(options.data):
        parser.error("either folders of runs or --data must be given")
    with tempfile.TemporaryDirectory(prefix="ptl-prefix-bench-") as scratch:
        runs = options.runs or train_study(options.data, options.steps, Path(scratch))
        folders = [RunFolder(path) for path in runs]
        finished = [folder for folder in folders if folder.record.exists() and folder.best.exists()]
        measured = {
            folder.path.name if options.data else str(folder.path): measure_losses(
                folder, options.sizes, options.whole_examples
            )
            for folder in finished
        }
    whole = [losses[None] for losses in measured.values()]
    found = {
        size: agreement([losses[size] for losses in measured.values()], whole, resamples=options.resamples)
        for size in options.sizes
    }
    report = {
        "whole_examples": options.whole_examples,
        "losses": {path: {str(size): loss for size, loss in losses.items()} for path, losses in measured.items()},
        "agreement": {str(size): asdict(one) for size, one in found.items()},
    }
    finish(options.out, report, run_sections.rung_ranking)
    return found


if __name__ == "__main__":
    main()
