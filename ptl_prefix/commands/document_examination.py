"""The examination of bundles, or of a bare backbone, on a document: for every verb that ends with one.

In: the settings of `conf/examine.yaml`, and the bundles. Out: tables, `document.json` and `document.png`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ptl_prefix.artifacts.bundle import Bundle, read_bundle, read_routing
from ptl_prefix.artifacts.bundle_folder import output_folder
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.document_report import NO_CONTEXT, WHOLE_DOCUMENT, DocumentReport
from ptl_prefix.artifacts.document_text import text_sha256
from ptl_prefix.artifacts.prompt_format import ChatFormat, PromptFormat
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.commands.config.bundle_inputs import load_bundle_backbone, source_lines
from ptl_prefix.commands.config.instantiate import build
from ptl_prefix.commands.document_files import write_report
from ptl_prefix.commands.document_gate import measure_gate
from ptl_prefix.commands.document_table import show_report
from ptl_prefix.data.question_file import Question, QuestionFile, read_questions
from ptl_prefix.errors import ConfigError
from ptl_prefix.evaluation.condition import Condition, control_conditions, method_condition
from ptl_prefix.evaluation.evaluate_document import AskSettings, Document, evaluate_document
from ptl_prefix.evaluation.retention import read_retention_text
from ptl_prefix.methods.restore import restore
from ptl_prefix.settings import defaults_of
from ptl_prefix.training.console import EscapingConsole

_FOLDER = "examination"
_DEFAULT_LENGTHS = (64, 256)
_GATE = "relevance gate"


def examine(config: dict[str, Any], words: Sequence[str]) -> DocumentReport:
    """Ask the questions, print the tables and write the files.

    Args:
        config: Settings of `conf/examine.yaml`, and `backbone`.
        words: Bundles, run folders or addresses on the hub; none examines the bare backbone.

    Raises:
        ConfigError: The document cannot be read, or the bundles cannot be asked together.
        DataError: The questions cannot be read, or the files not be written.
    """
    file = read_questions(config["questions"])
    document = _document(config["document"], file)
    questions = _questions_about(document, file)
    foreign = _foreign_texts(config["foreign"])
    bundles = [read_bundle(word) for word in words]
    if problems := _bundle_problems(words, bundles, config):
        raise ConfigError(problems)
    console, notes = EscapingConsole(), EscapingConsole(stderr=True)
    for word, bundle in zip(words, bundles, strict=True):
        if bundle.manifest.document_sha256 not in (None, text_sha256(document.text)):
            notes.print(Text(f"{word} was made from another text than {document.name}"), soft_wrap=True)
    report = _report(document, questions, words, bundles, config, notes)
    report = _with_gate(report, questions, foreign, words, config)
    show_report(report, console)
    for label, path in write_report(report, _out_folder(config["out"], words)):
        console.print(Text(f"{label}: {path}"), soft_wrap=True)
    return report


def _document(name: str, file: QuestionFile) -> Document:
    """The document: an article of the file of questions, or a text file."""
    if name in file.articles:
        return Document(name=name, text=file.articles[name])
    try:
        text = Path(name).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        articles = f", or one of the articles {', '.join(list(file.articles)[:5])}, …" if file.articles else ""
        raise ConfigError([f"`document` must be a text file in UTF-8{articles}, but '{name}' is not."]) from error
    if not text.strip():
        raise ConfigError([f"`document` must hold text, but '{name}' is empty."])
    return Document(name=name, text=text)


def _questions_about(document: Document, file: QuestionFile) -> tuple[Question, ...]:
    """The questions about a document: of a file that names several, those that name it or its file."""
    named = {one.document for one in file.questions} - {None}
    if not file.articles and len(named) < 2:
        return file.questions
    names = {document.name, Path(document.name).name, Path(document.name).stem}
    if found := tuple(one for one in file.questions if one.document in names):
        return found
    raise ConfigError(
        [
            f"`questions` must hold questions about `document`, but those of the file are about "
            f"{', '.join(sorted(map(str, named))[:5])}, and none about '{document.name}'."
        ]
    )


def _bundle_problems(words: Sequence[str], bundles: Sequence[Bundle], config: Mapping[str, Any]) -> list[str]:
    """Bundles that cannot be asked with one prompter, or none and no backbone either."""
    if not bundles:
        problems = [] if config.get("backbone") else ["A bundle or `backbone` must be given, but neither is."]
        if config["foreign"] is not None:
            problems.append("`foreign` must be null without a bundle, whose gate would refuse its texts; remove it.")
        return problems
    first = bundles[0].manifest
    problems = [
        f"A bundle must take a question as it is, but {word} was trained with a `task.prompt_template`."
        for word, bundle in zip(words, bundles, strict=True)
        if bundle.manifest.prompt.source_template is not None
    ]
    for word, bundle in zip(words[1:], bundles[1:], strict=True):
        if bundle.manifest.prompt != first.prompt:
            problems.append(f"Bundles must have one prompt format, but that of {word} is not that of {words[0]}.")
        if bundle.manifest.backbone.weights_fingerprint != first.backbone.weights_fingerprint:
            problems.append(f"Bundles must be of one backbone, but that of {word} is not that of {words[0]}.")
    return problems


def _report(
    document: Document,
    questions: Sequence[Question],
    words: Sequence[str],
    bundles: Sequence[Bundle],
    config: dict[str, Any],
    notes: Console,
) -> DocumentReport:
    backbone = load_bundle_backbone(bundles[0].manifest, config) if bundles else _bare(config)
    prompt = bundles[0].manifest.prompt if bundles else question_format(backbone)
    methods = [restore(backbone, bundle).method for bundle in bundles]
    try:
        own = [method_condition(name, method) for name, method in zip(names_of(words), methods, strict=True)]
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    lengths = config["lengths"]
    if lengths is None:
        lengths = sorted({method.position_offset for method in methods} - {0}) or _DEFAULT_LENGTHS
    conditions: list[Condition] = [*own, *control_conditions(backbone, document.text, lengths)]
    decoding = Decoding(**{**defaults_of("generation/greedy"), "max_new_tokens": config["max_new_tokens"]})
    settings = AskSettings(
        decoding=decoding,
        batch_size=config["batch_size"],
        resamples=config["resamples"],
        resample_seed=config["resample_seed"],
        cost_rounds=config["cost_rounds"],
        retention=read_retention_text(config["retention_file"]) if config["retention"] else None,
    )

    def tell(name: str, number: int, total: int) -> None:
        notes.print(Text(f"{number} of {total}: {name}"), soft_wrap=True)

    return evaluate_document(
        backbone,
        document,
        questions,
        conditions,
        prompter=backbone.prompter(prompt),
        settings=settings,
        compared_to=None if bundles else NO_CONTEXT,
        on_condition=tell,
    )


def names_of(words: Sequence[str]) -> list[str]:
    """Short names of bundles: those of their folders, if these differ and are no control's."""
    names = [Path(word).name for word in words]
    is_clear = len({*names}) == len(names) and not {NO_CONTEXT, WHOLE_DOCUMENT, ""} & {*names}
    return names if is_clear else list(words)


def _bare(config: dict[str, Any]) -> Backbone:
    own = {"dtype": config["dtype"], "device": None if config["device"] == "auto" else config["device"]}
    backbone: Backbone = build(config["backbone"] | {key: value for key, value in own.items() if value}).load()
    return backbone


def question_format(backbone: Backbone) -> PromptFormat:
    """The format of a question where no bundle has one: the backbone's chat template, or plain text without one."""
    if backbone.is_encoder_decoder or not backbone.tokenizer.chat_template:
        return PromptFormat()
    return PromptFormat(between="", chat=ChatFormat(name="backbone"))


def _with_gate(
    report: DocumentReport,
    questions: Sequence[Question],
    foreign: Sequence[str],
    words: Sequence[str],
    config: Mapping[str, Any],
) -> DocumentReport:
    """The report with the gate of the first bundle, or with the reason why there is none."""
    if not foreign:
        return report
    own = [one.question for one in questions]
    found = measure_gate(read_routing(words[0]), own, foreign, wrong_refusals=config["wrong_refusals"])
    if isinstance(found, str):
        return dataclasses.replace(report, skipped={**report.skipped, _GATE: f"the bundle {words[0]} {found}"})
    return dataclasses.replace(report, gate=found)


def _foreign_texts(path: str | None) -> list[str]:
    """The texts that a gate should refuse: the lines of a file, or its questions, if it is one of questions."""
    if path is not None and Path(path).suffix.lower() == ".jsonl":
        return [one.question for one in read_questions(path).questions]
    return [text for text in source_lines(path) if text.strip()]


def _out_folder(chosen: str | None, words: Sequence[str]) -> Path:
    if chosen is not None:
        return Path(chosen)
    if not words:
        return Path("outputs", _FOLDER)
    return output_folder(words[0], _FOLDER)
