"""Runs the studies behind the project's comparison of methods, a part at a time: `make evidence`.

    python -m scripts.evidence                   # everything that is not finished, some six hours on two cores
    python -m scripts.evidence --minutes 60      # stops after an hour; the same command goes on
    python -m scripts.evidence --list            # the parts, their state and their time
    python -m scripts.evidence --only length     # one part

In: $PTL_PREFIX_DATA, the folder of real data. Out: a study for each part in `outputs/sweeps/evidence_<part>`, official
metrics of the confirmed runs on whole test splits, and a comparison of each finished part in `docs/evidence/<part>`.
Whatever ends a part, the next call goes on with it: studies resume, finished trials are not trained again.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.evaluation_record import RECORD_FILE, read_evaluation_record
from ptl_prefix.artifacts.run_folder import CONFIRM, RunFolder

_COMMAND = [sys.executable, "-m", "ptl_prefix"]
_SWEEPS = Path("outputs/sweeps")
_STOP_S = 120.0
"""Seconds that a part gets to write its checkpoints when the time is over; then it is killed, and loses one trial."""


@dataclass(frozen=True)
class Part:
    """One study.

    Args:
        name: Name of the part.
        question: What it asks.
        study: Name of the predefined study.
        words: Other words of its command.
        decoding: Words of `ptl-prefix evaluate` for the runs that are compared; empty if training has decoded enough.
        minutes: Its time on two cores.
    """

    name: str
    question: str
    study: str
    words: tuple[str, ...]
    decoding: tuple[str, ...] = ()
    minutes: int = 0

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
        """The command that begins its study, or goes on with it."""
        return [*_COMMAND, "sweep", "run", self.study, f"hydra.sweeper.study_name={self.folder.name}", *self.words]

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
        Part("length", "How long should a prefix be?", "evidence_length", curve),
        Part("reparam", "Does the MLP help, and how wide?", "evidence_reparam", curve),
        Part("place", "Embeddings, infix, prefix, and which layers?", "evidence_place", curve),
        Part("start", "Which start, with how many examples?", "evidence_start", curve),
        Part("one_rate", "What is lost with one learning rate for all?", "evidence_one_rate", curve),
    ]
    for name, of_task in words.items():
        question = f"Which method on {name}, on the embedded backbone?"
        parts.append(Part(f"small_{name}", question, "evidence_methods", (*of_task, *_SMALL), decoding=_WHOLE))
    for name, of_task in words.items():
        question = f"Which method on {name}, on a pretrained model of 135M?"
        parts.append(Part(f"smollm2_{name}", question, "evidence_methods", (*of_task, *_SMOLLM2)))
    return parts


_SMALL = ("trainer=cpu", "trainer.max_steps=300", "trainer.val_check_interval=100", "trainer.limit_val_batches=4")
"""The embedded backbone: 5.4M parameters."""

_SMOLLM2 = (
    "backbone=smollm2",
    "backbone.dtype=float32",
    "trainer=cpu",
    "trainer.max_steps=100",
    "trainer.val_check_interval=100",
    "trainer.limit_val_batches=4",
    "data.batch_size=8",
    "data.eval_batch_size=16",
    "evaluation.num_examples=32",
    "hydra.sweeper.n_trials=4",
    "hydra.sweeper.confirm_seeds=[1,2,3]",
)
"""A released model of 135M parameters: fewer steps, trials and decoded inputs."""

_WHOLE = ("num_examples=null", "generation=beam")
"""Official metrics: every test input, by beam search."""


class OutOfTimeError(Exception):
    """The time that was given is over."""


@dataclass(frozen=True)
class Deadline:
    """When to stop.

    Args:
        at_s: Time of `time.monotonic`; `None` for never.
    """

    at_s: float | None

    def run(self, command: Sequence[str], *, log: Path) -> None:
        """Run a command, whose output goes to the terminal; interrupt it when the time is over.

        Raises:
            OutOfTimeError: When it was interrupted.
            subprocess.CalledProcessError: When it failed.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(" ".join(command) + "\n")
        left = None if self.at_s is None else max(0.0, self.at_s - time.monotonic())
        if left == 0.0:
            raise OutOfTimeError
        process = subprocess.Popen(list(command), start_new_session=True)
        try:
            code = process.wait(left)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            _stop(process)
            if isinstance(error, KeyboardInterrupt):
                raise
            raise OutOfTimeError from None
        if code:
            raise subprocess.CalledProcessError(code, list(command))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process group, so that trials write checkpoints; kill what does not end."""
    for number, seconds in ((signal.SIGINT, _STOP_S), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            process.wait()
            return


def carry_out(part: Part, deadline: Deadline) -> None:
    """Finish a part: its study, and the evaluations of its runs."""
    began = time.monotonic()
    log = part.folder.parent / f"{part.folder.name}.commands"
    deadline.run(part.command(), log=log)
    if part.decoding:
        for run in part.runs():
            if not _is_decoded(RunFolder(run)):
                deadline.run([*_COMMAND, "evaluate", f"run={run}", *part.decoding], log=log)
    seconds = time.monotonic() - began
    write_atomically(part.marker, json.dumps({"question": part.question, "seconds_of_last_call": round(seconds)}))


def _is_decoded(run: RunFolder) -> bool:
    """Whether a run has outputs for a whole test split."""
    records = map(read_evaluation_record, run.evaluation.glob(f"test-*/{RECORD_FILE}"))
    return any(record.key.num_examples == record.num_in_split for record in records)


def report(part: Part, docs: Path) -> None:
    """Compare the runs of a finished part; the tables, the records behind them and the page go to the documentation."""
    command = [*_COMMAND, "compare", *map(str, part.runs()), f"out={docs / part.name}"]
    subprocess.run(command, check=True)


def show(parts: Sequence[Part], console: Console) -> None:
    """Print the parts, their state and their time."""
    table = Table(title="the evidence, by part")
    for heading in ("part", "question", "state", "minutes"):
        table.add_column(heading, justify="right" if heading == "minutes" else "left")
    for part in parts:
        table.add_row(part.name, part.question, part.state, str(part.minutes))
    console.print(table)
    left = sum(part.minutes for part in parts if part.state != "finished")
    console.print(f"At most {left // 60} h {left % 60} min are left on two cores.")


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="stop after this time; without it, when all is finished")
    parser.add_argument("--only", nargs="+", metavar="PART", help="names of parts; all by default")
    parser.add_argument("--list", action="store_true", help="only show the parts")
    parser.add_argument("--docs", type=Path, default=Path("docs/evidence"), help="folder of the comparisons")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Carry out the parts that are not finished, and show all."""
    arguments = parse(words)
    console = Console()
    data = os.environ.get("PTL_PREFIX_DATA")
    if data is None:
        raise SystemExit("The studies need real data: set PTL_PREFIX_DATA to the folder that has data/e2e and others.")
    parts = parts_for(Path(data))
    if unknown := set(arguments.only or ()) - {part.name for part in parts}:
        raise SystemExit(f"--only must name parts, but there is no {', '.join(sorted(unknown))}; see --list.")
    parts = [part for part in parts if not arguments.only or part.name in arguments.only]
    if not arguments.list:
        limit = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
        try:
            for part in parts:
                if part.state != "finished":
                    console.rule(part.name)
                    carry_out(part, Deadline(limit))
                    report(part, arguments.docs)
        except OutOfTimeError:
            console.print("The time is over; the same command goes on.")
    show(parts, console)


if __name__ == "__main__":
    main()
