"""Three real documents become prefixes, and are asked beside all controls: what `docs/explanation/documents.md` tells.

    python -m scripts.document_study                       # everything that is not finished: hours on two cores
    python -m scripts.document_study --only sweeps         # one document

In: the documents of `benchmarks/documents`, of which two are articles of the optional data folder; SmolLM2. Out: for
each document a self-study, a prefix and a prompt of each length in `outputs/documents/<name>`, the report of its
questions and the cost of its trainings in `docs/evidence/documents`, and the page. A training that was killed is
resumed by the next call; what has finished is not done again.
"""

import argparse
import os
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.real_documents import DocumentNotFoundError, RealDocument, real_documents
from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.document_report import REPORT_FILE
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import read_record
from scripts.document_page import EVIDENCE, trainings_file, write_page
from scripts.document_trainings import add_seconds, trainings_of, write_trainings
from scripts.evidence_parts import PTL_PREFIX

LENGTHS = (64, 128, 256)
OUT = Path("outputs/documents")
SETTINGS = (
    "backbone=smollm2",
    "self_study.kinds=[fact]",
    "self_study.chunk_tokens=256",
    "self_study.coverage=16",
    "self_study.max_answer_tokens=48",
    "self_study.batch_size=32",
    "data.batch_size=16",
    "trainer.max_steps=60",
    "trainer.val_check_interval=30",
    "optimizer.warmup_steps=6",
    "evaluation.retention=false",
    "evaluation.compare_bare=false",
    "tracking.wandb=none",
)
"""Settings of every training."""
_METHODS = {
    "prefix": ("method=document_prefix", "method.prefix_length={}", "optimizer.lr=0.01"),
    "prompt": ("method=prompt_tuning", "method.init=text", "method.prompt_length={}", "optimizer.lr=0.03"),
}
"""Settings by method; `{}` is the length. The rates were not searched."""


@dataclass(frozen=True)
class Training:
    """One training on one document.

    Args:
        document: Name of the document.
        method: Name of the method in `_METHODS`.
        length: Number of positions in place of the document.
    """

    document: str
    method: str
    length: int

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return OUT / self.document / f"{self.method}-{self.length}"

    def command(self) -> list[str]:
        """The command that trains, or resumes a training that was killed; empty if it has finished."""
        run = RunFolder(self.folder)
        if run.record.is_file() and read_record(run.record).status == "finished":
            return []
        if run.last.exists():
            return [*PTL_PREFIX, "distill", f"resume={self.folder}"]
        words = (word.format(self.length) for word in _METHODS[self.method])
        own = (f"document={_text_file(self.document)}", f"name={self.document}", f"hydra.run.dir={self.folder}")
        return [*PTL_PREFIX, "distill", *own, *SETTINGS, *words]


def _text_file(document: str) -> Path:
    return OUT / f"{document}.txt"


def trainings(document: str) -> list[Training]:
    """The trainings on a document: the first one makes the self-study, which the others read."""
    return [Training(document, method, length) for method in _METHODS for length in LENGTHS]


def examination(document: RealDocument, foreign: RealDocument) -> list[str]:
    """The command that asks a document's questions of all its runs and of the controls.

    Args:
        document: The document.
        foreign: Another one, whose questions a server's gate should refuse.
    """
    return [
        *(*PTL_PREFIX, "examine", *(str(one.folder) for one in trainings(document.name))),
        f"document={_text_file(document.name)}",
        f"questions={document.questions}",
        f"foreign={foreign.questions}",
        f"lengths=[{','.join(map(str, LENGTHS))}]",
        "cost_rounds=3",
        "batch_size=16",
        f"out={OUT / document.name / 'examination'}",
    ]


def written(documents: Sequence[RealDocument], console: Console) -> list[RealDocument]:
    """The documents that are on this machine, whose texts are written to files."""
    found = []
    for document in documents:
        try:
            document.write(OUT)
            found.append(document)
        except DocumentNotFoundError as error:
            console.print(f"{document.name} is skipped: {error}", soft_wrap=True)
    return found


def train(names: Sequence[str], *, jobs: int) -> None:
    """Train what is not finished, several at once, each on its share of the cores."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": threads}

    def carry_out(one: Training) -> None:
        if command := one.command():
            begun = time.monotonic()
            try:
                subprocess.run(command, check=True, env=environment)
            finally:
                add_seconds(one.folder, time.monotonic() - begun)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(carry_out, [trainings(name)[0] for name in names]))
        list(pool.map(carry_out, [one for name in names for one in trainings(name)[1:]]))


def main(words: Sequence[str] | None = None) -> None:
    """Train, ask, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = real_documents()
    names = [document.name for document in every]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="DOCUMENT", help=", ".join(names))
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once")
    arguments = parser.parse_args(words)
    console = Console()
    chosen = written([document for document in every if document.name in arguments.only], console)
    train([document.name for document in chosen], jobs=arguments.jobs)
    for document in chosen:
        foreign = every[(every.index(document) + 1) % len(every)]
        report = OUT / document.name / "examination" / REPORT_FILE
        if not report.is_file():
            subprocess.run(examination(document, foreign), check=True)
        write_atomically(EVIDENCE / f"{document.name}.json", report.read_text(encoding="utf-8"))
        costs = trainings_of([one.folder for one in trainings(document.name)])
        write_trainings(trainings_file(EVIDENCE, document.name), costs)
    write_page(EVIDENCE)


if __name__ == "__main__":
    main()
