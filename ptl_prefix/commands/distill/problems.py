"""Every way in which the stages of `ptl-prefix distill` would not fit together, found before any weights load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.document_text import read_document
from ptl_prefix.artifacts.self_study import read_self_study
from ptl_prefix.backbones.spec import BackboneSpec
from ptl_prefix.commands.config.build_plan import backbone_node
from ptl_prefix.commands.config.instantiate import build, target_values
from ptl_prefix.commands.distill.training_config import method_node, replayed_study
from ptl_prefix.data.question_file import read_questions
from ptl_prefix.distillation.settings import SelfStudySettings, backbone_problems
from ptl_prefix.errors import DataError, PtlPrefixError
from ptl_prefix.methods.method import Method
from ptl_prefix.methods.prefix_tuning import PrefixTuning
from ptl_prefix.methods.start_inputs import StartInputs
from ptl_prefix.training.plan_problems import plan_problems, smoothing_problems


def distill_problems(config: Mapping[str, Any], built: Mapping[str, Any]) -> list[str]:
    """The problems, one sentence each.

    Args:
        config: Config as plain values.
        built: Objects of the nodes that have no problem of their own, by the nodes' keys.
    """
    text, problems = _document(config)
    problems += _question_problems(config.get("questions"))
    found, method = _update_problems(config, built.get("method"))
    problems += found
    if method is not None:
        method.provide_start_inputs(StartInputs(read_document=lambda: text, gives_rows=True))
    backbone = _placed(config, built)
    problems += plan_problems(
        trainer=target_values(config["trainer"]) if "trainer" in built else None,
        backbone=backbone,
        method=method,
        task=None,
        decoding=built.get("generation"),
        needs_weights=not config.get("dry_run"),
        routing=config.get("routing", "none"),
    )
    problems += smoothing_problems(built.get("optimizer"), has_teacher=config.get("loss") == "teacher")
    return problems + _study_problems(built.get("self_study"), backbone)


def _document(config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The text of the document, and why it cannot be read; a missing file is a problem of the root's settings."""
    try:
        return read_document(str(config.get("document"))), []
    except DataError as error:
        missing = config.get("document") is None or "cannot be read" in str(error)
        return "none", [] if missing else [f"`document`: {error}"]


def _question_problems(questions: str | None) -> list[str]:
    """Why a file of questions cannot be asked at the end."""
    if questions is None or not Path(questions).is_file():
        return []
    try:
        read_questions(questions)
    except DataError as error:
        return [f"`questions`: {error}"]
    return []


def _update_problems(config: Mapping[str, Any], method: Method | None) -> tuple[list[str], Method | None]:
    """Problems of the older version, and the method as it will be trained."""
    if config.get("update") is None or method is None:
        return [], method
    if not isinstance(method, PrefixTuning):
        return [
            f"`update` must be null for a method that is no prefix, but is given and `method` is {method.name}; choose "
            "method=document_prefix."
        ], None
    try:
        read_self_study(str(replayed_study(config["update"])))
        changed: Method = build(method_node(config))
    except (PtlPrefixError, ValueError) as error:
        return [str(error)], None
    return [], changed


def _study_problems(settings: SelfStudySettings | None, backbone: BackboneSpec | None) -> list[str]:
    if settings is None or backbone is None:
        return []
    try:
        return backbone_problems(settings, backbone.load_shape())
    except PtlPrefixError:
        return []  # `plan_problems` has the sentence


def _placed(config: Mapping[str, Any], built: Mapping[str, Any]) -> BackboneSpec | None:
    """The backbone on the device that the trainer names, if it names one."""
    if not {"backbone", "trainer"} <= built.keys():
        return built.get("backbone")
    placed: BackboneSpec = build(backbone_node(config))
    return placed
