"""The parts of the study behind the project's comparison of methods.

In: the folder of real data. Out: `Part`s: what each asks, the study that answers it, and where that stands.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from ptl_prefix.artifacts.run_folder import CONFIRM

PTL_PREFIX = (sys.executable, "-m", "ptl_prefix")
"""The start of every command."""
_SWEEPS = Path("outputs/sweeps")


@dataclass(frozen=True)
class Part:
    """One study.

    Args:
        name: Name of the part.
        question: What it asks.
        study: Name of the predefined study.
        words: Other words of its command.
        decoding: Words of `ptl-prefix evaluate` for the runs that are compared; empty if training has decoded enough.
        minutes: Its time on two cores; `None` if it has not been measured.
        curve: Setting that is plotted against the main metric; empty for none.
    """

    name: str
    question: str
    study: str
    words: tuple[str, ...]
    decoding: tuple[str, ...] = ()
    minutes: int | None = None
    curve: str = ""

    @property
    def folder(self) -> Path:
        """The folder of its study."""
        return _SWEEPS / f"evidence_{self.name}"

    @property
    def marker(self) -> Path:
        """The file that says when it was finished, and how long it took."""
        return self.folder / "evidence.json"

    @property
    def state(self) -> str:
        """`finished`, `begun` or `not begun`."""
        return "finished" if self.marker.is_file() else "begun" if self.folder.is_dir() else "not begun"

    def command(self) -> list[str]:
        """The command that starts its study, or resumes it."""
        return [*PTL_PREFIX, "sweep", "run", self.study, f"hydra.sweeper.study_name={self.folder.name}", *self.words]

    def runs(self) -> list[Path]:
        """The runs that are compared: those that confirm the best settings, or all if there is no confirmation."""
        found = [path.parent for path in sorted(self.folder.rglob("record.json")) if "evaluation" not in path.parts]
        confirming = [run for run in found if CONFIRM in run.relative_to(self.folder).parts]
        return confirming or found


def parts_for(data: Path) -> list[Part]:
    """The parts, the quick ones first.

    Args:
        data: The folder of real data.
    """
    words = {
        "e2e": ("task=e2e_nlg", f"task.data_dir={data / 'data/e2e'}"),
        "webnlg": ("task=webnlg", f"task.data_dir={data / 'data/webnlg'}"),
        "dialogsum": ("task=dialogsum", f"task.data_dir={data / 'data/dialogsum'}"),
        "banking77": ("task=banking77", f"task.data_dir={data / 'data/banking77'}"),
    }
    curve = (*words["e2e"], *_SMALL)
    parts = [
        Part("length", "How long should a prefix be?", "evidence_length", curve, curve="method.prefix_length"),
        Part("reparam", "Does the MLP help, and how wide?", "evidence_reparam", curve),
        Part("place", "Embeddings, infix, prefix, and which layers?", "evidence_place", curve),
        Part("start", "Which start, with how many examples?", "evidence_start", curve, curve="task.num_train_examples"),
        Part("one_rate", "What is lost with one learning rate for all?", "evidence_one_rate", curve),
    ]
    for name in ("e2e", "banking77"):
        question = f"Which start of a prefix on {name}, on a pretrained model of 135M?"
        parts.append(Part(f"start_{name}", question, "prefix_start", (*words[name], *_SMOLLM2, *_CONFIRMED)))
    question = "Which start of a prefix on webnlg, on a pretrained model of 135M, with the rates of these tasks?"
    rates = (*words["webnlg"], *_SMOLLM2, "tracking.num_samples=0")
    parts.append(Part("start_webnlg", question, "evidence_start_rates", rates, minutes=29))
    question = "Does the lead of the best start last over four times the steps, on e2e and a pretrained model of 135M?"
    longer = (*words["e2e"], *_SMOLLM2, *_LONGER, "tracking.num_samples=0")
    parts.append(Part("start_long", question, "evidence_start_long", longer))
    embedded = (*_SMALL, "trainer.max_steps=400", "trainer.val_check_interval=100", "tracking.num_samples=0")
    question = "Is the best start of a pretrained model also the best on the embedded backbone, on e2e?"
    parts.append(Part("start_embedded", question, "evidence_start_embedded", (*words["e2e"], *embedded)))
    question = "Is the best start of a pretrained model also the best on the embedded backbone, on the task built in?"
    parts.append(Part("start_embedded_tables", question, "evidence_start_embedded", ("task=table_to_text", *embedded)))
    for name in ("e2e", "banking77"):
        question = f"Which method on {name}, on the embedded backbone?"
        parts.append(
            Part(f"small_{name}", question, "evidence_methods", (*words[name], *_SMALL, *_CONFIRMED), decoding=_WHOLE)
        )
    for name, of_task in words.items():
        question = f"Which method on {name}, on a pretrained model of 135M?"
        long = _LONG if name == "dialogsum" else ()
        parts.append(Part(f"smollm2_{name}", question, "evidence_methods", (*of_task, *_SMOLLM2, *_CONFIRMED, *long)))
    epoch = (*words["e2e"], *_EVERY, "backbone=smollm2", "backbone.dtype=bfloat16")
    question = "How near does a model of 135M come to GPT-2 medium after one epoch of E2E?"
    parts.append(Part("epoch", question, "evidence_epoch", epoch, decoding=_WHOLE))
    return parts


_EVERY = ("trainer=cpu", "evaluation.compare_bare=false", "hydra.sweeper.n_jobs=2")
"""Two trials at once, each on one core: on two cores that is faster than one trial on both."""

_SMALL = (
    *_EVERY,
    "trainer.max_steps=200",
    "trainer.val_check_interval=100",
    "trainer.limit_val_batches=4",
    "data.batch_size=8",
    "evaluation.num_examples=32",
)
"""The embedded backbone: 5.4M parameters, and batches of the size that the larger one has."""

_SMOLLM2 = (
    *_EVERY,
    "backbone=smollm2",
    "backbone.dtype=bfloat16",
    "trainer.max_steps=60",
    "trainer.val_check_interval=30",
    "trainer.limit_val_batches=6",
    "optimizer.warmup_steps=6",
    "data.batch_size=8",
    "data.eval_batch_size=16",
    "evaluation.num_examples=32",
)
"""A released model of 135M parameters: fewer steps and decoded inputs."""

_LONGER = ("trainer.max_steps=240", "trainer.val_check_interval=60", "optimizer.warmup_steps=24")

_CONFIRMED = (
    "tracking.num_samples=0",
    "evaluation.num_examples=1",
    "evaluation.retention=false",
    "hydra.sweeper.confirm_overrides=['evaluation.num_examples=32','evaluation.retention=true']",
)
"""A search compares losses: only the runs that confirm its best settings decode."""

_LONG = ("data.batch_size=4", "trainer.limit_val_batches=3")
"""Long inputs: a step costs as many tokens as in the other tasks."""

_WHOLE = ("num_examples=null", "generation=beam")
"""Official metrics: every test input, by beam search."""
