"""Runs the studies behind the project's comparison of methods, a part at a time: `make evidence`.

    python -m scripts.evidence                   # everything that is not finished: hours on two cores
    python -m scripts.evidence --minutes 60      # stops after an hour; the same command resumes
    python -m scripts.evidence --list            # the parts, their state and their time
    python -m scripts.evidence --only length     # one part

In: $PTL_PREFIX_DATA, the folder of real data. Out: a study for each part in `outputs/sweeps/evidence_<part>`, official
metrics of the confirmed runs on whole test splits, and the comparison of each finished part in `docs/evidence/<part>`.
A part that was interrupted or killed is resumed by the next call; finished trials are not trained again.
"""

import argparse
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.evaluation_record import RECORD_FILE, read_evaluation_record
from ptl_prefix.artifacts.run_folder import RunFolder
from scripts.evidence_page import write_page
from scripts.evidence_parts import PTL_PREFIX, Part, parts_for

_STOP_S = 120.0
"""Seconds that a part gets to write its checkpoints when the time is over; then it is killed, and loses one trial."""


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
        left = None if self.at_s is None else max(0.0, self.at_s - time.monotonic())
        if left == 0.0:
            raise OutOfTimeError
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(" ".join(command) + "\n")
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
                deadline.run([*PTL_PREFIX, "evaluate", f"run={run}", *part.decoding], log=log)
    seconds = time.monotonic() - began
    write_atomically(part.marker, json.dumps({"question": part.question, "seconds_of_last_call": round(seconds)}))


def _is_decoded(run: RunFolder) -> bool:
    """Whether a run has outputs for a whole test split."""
    records = map(read_evaluation_record, run.evaluation.glob(f"test-*/{RECORD_FILE}"))
    return any(record.key.num_examples == record.num_in_split for record in records)


def report(part: Part, folder: Path, data: Path) -> None:
    """Compare the runs of a finished part; its record and table, and the page of all parts, go to the documentation."""
    out = Path("outputs/comparisons", part.folder.name)
    subprocess.run([*PTL_PREFIX, "compare", *map(str, part.runs()), f"out={out}"], check=True)
    for suffix in ("json", "csv"):
        text = (out / f"comparison.{suffix}").read_text(encoding="utf-8")
        write_atomically(folder / part.name / f"comparison.{suffix}", portable(text, data))
    write_page(folder)


def portable(text: str, data: Path) -> str:
    """A text without the paths of this machine: the data folder is `$PTL_PREFIX_DATA`, others are relative."""
    return text.replace(str(data), "$PTL_PREFIX_DATA").replace(f"{Path.cwd()}{os.sep}", "")


def show(parts: Sequence[Part], console: Console) -> None:
    """Print the parts, their state and their time."""
    table = Table(title="the evidence, by part")
    for heading in ("part", "question", "state", "minutes"):
        table.add_column(heading, justify="right" if heading == "minutes" else "left")
    for part in parts:
        table.add_row(part.name, part.question, part.state, "?" if part.minutes is None else str(part.minutes))
    console.print(table)
    left = [part.minutes for part in parts if part.state != "finished"]
    minutes, num_unknown = sum(one or 0 for one in left), left.count(None)
    unknown = f", and parts whose time was never measured: {num_unknown}" if num_unknown else ""
    console.print(f"At most {minutes // 60} h {minutes % 60} min are left on two cores{unknown}.")


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
    all_parts = parts_for(Path(data))
    if unknown := set(arguments.only or ()) - {part.name for part in all_parts}:
        raise SystemExit(f"--only must name parts, but there is no {', '.join(sorted(unknown))}; see --list.")
    parts = [part for part in all_parts if not arguments.only or part.name in arguments.only]
    if not arguments.list:
        limit = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
        try:
            for part in parts:
                if part.state != "finished":
                    console.rule(part.name)
                    carry_out(part, Deadline(limit))
                    report(part, arguments.docs, Path(data))
        except OutOfTimeError:
            console.print("The time limit is reached; the same command resumes.")
    show(parts, console)


if __name__ == "__main__":
    main()
