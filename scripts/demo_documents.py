"""Three documents become prefixes, and one server answers questions on all of them: `make demo-documents`.

In: three short made-up documents (`scripts/demo_texts.py`), or with `--real` those of `benchmarks/documents` and the
longest prefixes of `scripts/document_study.py`, trained if they are not. Out: three bundles in outputs/demo_documents,
and two tables: the likelihood of the reference answers
without a context, with the prefix and with the document; and what a server over the three bundles answers, asked by the
document's name and by `auto`. The server ends with the script.

The default is the embedded backbone of 5.4M parameters, which writes English-looking text and knows nothing: its
answers are poor, and the likelihoods show how much of its document a prefix holds, or that it holds none of it.
`--backbone smollm2` takes a released model of 135M parameters.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.real_documents import real_documents
from ptl_prefix.artifacts.document_report import REPORT_FILE, DocumentReport, read_document_report
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.data.question_file import read_questions
from scripts import demo
from scripts.demo import ask, running_server
from scripts.demo_texts import DOCUMENTS
from scripts.document_study import LENGTHS, OUT, Training

_EMBEDDED = "tiny_gpt2"
_SETTINGS: Mapping[str, Sequence[str]] = {
    _EMBEDDED: (
        "self_study.chunk_tokens=160",
        "self_study.num_conversations=64",
        "self_study.max_question_tokens=24",
        "self_study.max_answer_tokens=24",
        "self_study.batch_size=16",
        "method.prefix_length=16",
        "data.batch_size=8",
        "trainer.max_steps=120",
        "trainer.val_check_interval=40",
    ),
    "smollm2": (
        "self_study.chunk_tokens=192",
        "self_study.num_conversations=40",
        "self_study.max_answer_tokens=48",
        "method.prefix_length=32",
        "data.batch_size=8",
        "trainer.max_steps=60",
        "trainer.val_check_interval=20",
    ),
}
"""What makes a short document's run short, by backbone."""


@dataclass(frozen=True)
class Asked:
    """A document of the demo, in files.

    Args:
        name: Name of the document, of its run folder, and of its task on the server.
        document: File of the text.
        questions: File of the questions, none of which is trained on.
    """

    name: str
    document: Path
    questions: Path


def made_up_documents(folder: Path, *, is_chat: bool) -> list[Asked]:
    """Write the made-up documents and their questions."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for one in DOCUMENTS:
        asked = Asked(one.name, folder / f"{one.name}.txt", folder / f"{one.name}.jsonl")
        asked.document.write_text(one.text, encoding="utf-8")
        lines = (
            json.dumps({"question": question, "answer": answer}) for question, answer in one.questions(is_chat=is_chat)
        )
        asked.questions.write_text("\n".join(lines) + "\n", encoding="utf-8")
        found.append(asked)
    return found


def written_real_documents() -> list[Asked]:
    """Write the documents of `benchmarks/documents`; a `DocumentNotFoundError` if one is not on this machine."""
    return [Asked(document.name, document.write(OUT), document.questions) for document in real_documents()]


def distil(asked: Asked, bundles: Path, words: Sequence[str]) -> DocumentReport:
    """Train the prefix of a document, and ask its questions under all conditions.

    Args:
        asked: The document.
        bundles: Folder that gets the run, under the document's name.
        words: Settings.
    """
    run = bundles / asked.name
    shutil.rmtree(run, ignore_errors=True)
    _run(
        [
            *demo.COMMAND,
            "distill",
            f"document={asked.document}",
            f"questions={asked.questions}",
            f"hydra.run.dir={run}",
            "evaluation.num_examples=2",
            "evaluation.compare_bare=false",
            "evaluation.retention=false",
            "tracking=none",
            *words,
        ]
    )
    return read_document_report(run / "examination" / REPORT_FILE)


def distil_real(asked: Asked, bundles: Path) -> DocumentReport:
    """Take the longest prefix of the study, trained now if it is not, and ask its questions if the study has not.

    Args:
        asked: A document of the study.
        bundles: Folder that gets a copy of the bundle, under the document's name.
    """
    one = Training(asked.name, "prefix", max(LENGTHS))
    if command := one.command():
        _run(command)
    shutil.rmtree(bundles / asked.name, ignore_errors=True)
    shutil.copytree(RunFolder(one.folder).bundle, bundles / asked.name)
    report = OUT / asked.name / "examination" / REPORT_FILE
    if not report.is_file():
        report = bundles.parent / "examinations" / asked.name / REPORT_FILE
        given = (f"document={asked.document}", f"questions={asked.questions}", f"lengths=[{one.length}]")
        _run([*demo.COMMAND, "examine", str(one.folder), *given, f"out={report.parent}"])
    return read_document_report(report)


def _run(command: Sequence[str]) -> None:
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"`{shlex.join(command)}` must succeed, but failed; its error is above.")


def show_likelihoods(reports: Mapping[str, DocumentReport], console: Console) -> None:
    """Print the loss of the reference answers of each document under each condition."""
    table = Table(title="loss of the reference answers, nats per token (lower is more likely)")
    families = list(dict.fromkeys(one.family for report in reports.values() for one in report.results))
    for heading in ("document", "tokens", *("the prefix" if "prefix" in name else name for name in families)):
        table.add_column(heading, justify="left" if heading == "document" else "right")
    for name, report in reports.items():
        losses = {one.family: one.values["answer_loss"].value for one in report.results}
        cells = (f"{losses[family]:.2f}" if family in losses else "" for family in families)
        table.add_row(name, f"{report.num_tokens:,}", *cells)
    console.print(table)


def show_answers(
    answers: Sequence[Mapping[str, str]], references: Mapping[str, Mapping[str, str]], console: Console
) -> None:
    """Print every question by name and by `auto`, what answered, and the reference; then how `auto` chose."""
    table = Table(title="what the server answered; all requests were in one batch", show_lines=True)
    for heading in ("asked for", "bundle that answered", "question", "answer", "reference"):
        table.add_column(heading, overflow="fold")
    for answer in sorted(answers, key=lambda one: (one["task"], one["source"], one["asked"] == "auto")):
        reference = references[answer["task"]][answer["source"]]
        text = " ".join(answer["text"].split())[:160]
        cells = (answer["asked"], answer["chosen"] or "refused", answer["source"], text, reference)
        # What a model writes may look like the console's own markup.
        table.add_row(*(Text(escape_controls(cell)) for cell in cells))
    console.print(table)
    automatic = [answer for answer in answers if answer["asked"] == "auto"]
    right = sum(answer["chosen"] == answer["task"] for answer in automatic)
    wrong = sum(answer["chosen"] not in ("", answer["task"]) for answer in automatic)
    console.print(
        f"auto: {right} of {len(automatic)} questions went to their own document, {wrong} to another one, "
        f"{len(automatic) - right - wrong} were refused"
    )


def free_questions(path: Path, most: int) -> dict[str, str]:
    """The first questions of a file that are answered freely, each with its reference answer."""
    free = [question for question in read_questions(path).questions if not question.choices]
    return {question.question: question.answers[0] for question in free[:most]}


def main(words: Sequence[str] | None = None) -> None:
    """Distil, serve, ask, and stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/demo_documents"))
    parser.add_argument("--backbone", choices=sorted(_SETTINGS), default=_EMBEDDED)
    parser.add_argument("--real", action="store_true", help="the documents of benchmarks/documents: hours, on smollm2")
    parser.add_argument("--requests", type=int, default=4, help="questions of each document that the server is asked")
    parser.add_argument("settings", nargs="*", help="settings of `ptl-prefix distill`, such as trainer.max_steps=40")
    arguments = parser.parse_args(words)
    if arguments.real and arguments.backbone == _EMBEDDED:
        parser.error("--real needs --backbone smollm2, as the documents are longer than the embedded backbone reads.")
    if arguments.real and arguments.settings:
        parser.error("--real has the settings of scripts/document_study.py; leave out yours.")
    console = Console()
    documents = (
        written_real_documents()
        if arguments.real
        else made_up_documents(arguments.out / "documents", is_chat=arguments.backbone != _EMBEDDED)
    )
    bundles = arguments.out / "bundles"
    settings = [f"backbone={arguments.backbone}", *_SETTINGS[arguments.backbone], *arguments.settings]
    reports = {}
    for asked in documents:
        console.print(f"a prefix for {asked.document} on {arguments.backbone} ...", soft_wrap=True)
        start = time.perf_counter()
        reports[asked.name] = distil_real(asked, bundles) if arguments.real else distil(asked, bundles, settings)
        console.print(f"  {time.perf_counter() - start:.0f} s, in {bundles / asked.name}", soft_wrap=True)
    show_likelihoods(reports, console)
    references = {asked.name: free_questions(asked.questions, arguments.requests) for asked in documents}
    console.print("starting the server ...")
    with running_server(bundles) as server:
        show_answers(ask(server, {name: list(found) for name, found in references.items()}), references, console)
    if arguments.backbone == _EMBEDDED:
        console.print("The embedded backbone is too small to answer well; --backbone smollm2 is a released one.")
    console.print(
        f"the server has ended; its bundles stay in {bundles}: ptl-prefix serve bundles={bundles}", soft_wrap=True
    )


if __name__ == "__main__":
    main()
