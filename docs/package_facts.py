"""What the reference pages state, read from the package: verbs, settings, metrics, tasks and experiments.

In: nothing but the installed package and its `conf/`. Out: plain dataclasses. Types and ranges come from signatures,
defaults from YAML, meanings from docstrings or, where those are silent, from the YAML's comments. This is the only file
of the documentation that imports the package's insides.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ptl_prefix import settings
from ptl_prefix.artifacts.bundle import BackboneIdentity, Manifest, TensorInfo
from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.document_report import (
    AnswerCost,
    AnswerRecord,
    ConditionReport,
    DocumentReport,
    Measured,
    RefusedTexts,
    RelevanceGate,
)
from ptl_prefix.artifacts.evaluation_record import EvaluationKey, EvaluationRecord
from ptl_prefix.artifacts.inspection import Inspection, NearestWords, NearWord, SiteInspection
from ptl_prefix.artifacts.predictions import Prediction
from ptl_prefix.artifacts.prompt_format import ChatFormat, PromptFormat
from ptl_prefix.artifacts.run_record import Cost, MetricInfo, Parameters, Ranking, RunRecord, Selection
from ptl_prefix.artifacts.self_study import SelfStudyFacts, StudyConversation, StudyCounts
from ptl_prefix.backbones.library_logging import silence_library_messages
from ptl_prefix.commands.config import catalog
from ptl_prefix.commands.config.instantiate import import_target
from ptl_prefix.commands.config.verb import Verb
from ptl_prefix.commands.config.verbs import VERBS
from ptl_prefix.commands.help import FLAGS
from ptl_prefix.data.question_file import Question
from ptl_prefix.evaluation.metric import load_metric
from ptl_prefix.sweeping.sweeper_settings import SweeperSettings

HYDRA_GROUPS = ("hydra/sweeper", "hydra/sweeper/sampler", "hydra/sweeper/pruner")
_SWEEPER = "hydra_plugins.ptl_prefix_sweeper.StudySweeper"

# Classes of backbones and methods are imported to read their signatures; what that prints is not about the pages.
silence_library_messages()

DOCUMENTS: Mapping[str, Mapping[str, type[Any]]] = {
    "record": {
        "": RunRecord,
        "parameters": Parameters,
        "cost": Cost,
        "metric_info": MetricInfo,
        "selection": Selection,
        "ranking": Ranking,
        "decoding": Decoding,
    },
    "manifest": {
        "": Manifest,
        "backbone": BackboneIdentity,
        "tensors": TensorInfo,
        "prompt": PromptFormat,
        "prompt.chat": ChatFormat,
        "decoding": Decoding,
    },
    "evaluation": {"": EvaluationRecord, "question": EvaluationKey},
    "prediction": {"": Prediction},
    "self-study": {"": SelfStudyFacts, "counts": StudyCounts},
    "study-conversation": {"": StudyConversation},
    "inspection": {"": Inspection, "sites": SiteInspection, "nearest": NearestWords, "by_key": NearWord},
    "question": {"": Question},
    "document": {
        "": DocumentReport,
        "results": ConditionReport,
        "values": Measured,
        "cost": AnswerCost,
        "answers": AnswerRecord,
        "gate": RelevanceGate,
        "own": RefusedTexts,
    },
}
"""Files that the package writes: the class of the whole, under an empty name, and of the parts that are objects."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One key of a config: its name, its type with its range, its default and what it means, all as Markdown."""

    key: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """The choices of a group that build one class, with the settings that not every class of the group has."""

    target: str
    choices: tuple[str, ...]
    settings: tuple[Setting, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group of configs, the choice that `train` makes if it makes one, and the settings that every choice has."""

    name: str
    default: str | None
    choices: tuple[catalog.Choice, ...]
    shared: tuple[Setting, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True)
class VerbFacts:
    """What `ptl-prefix <verb> --help` says, and more of its settings."""

    name: str
    summary: str
    usage: str
    groups: Mapping[str, str | None]
    settings: tuple[Setting, ...]
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class MetricFacts:
    """A metric, and how its number is read."""

    name: str
    summary: str
    scale: str
    direction: str
    library: str


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """A task of `conf/task/`."""

    name: str
    summary: str
    version: str
    metrics: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ExperimentFacts:
    """An experiment of `conf/experiment/`: what it chooses, and what its header says of the score and the memory."""

    name: str
    summary: str
    chosen: Mapping[str, str]
    expect: str


def verbs() -> Iterator[VerbFacts]:
    """The verbs that read a config, in the order of `--help`."""
    for verb in VERBS.values():
        pieces = ["ptl-prefix", verb.name, verb.arguments, "[KEY=VALUE]..."]
        yield VerbFacts(
            name=verb.name,
            summary=verb.summary,
            usage=" ".join(piece for piece in pieces if piece),
            groups=catalog.groups_of(verb.name),
            settings=_root_settings(verb),
            examples=verb.examples,
        )


def catalogs() -> Mapping[str, str]:
    """The verbs that list the choices of a group, with the group."""
    return catalog.CATALOGS


def flags() -> Sequence[tuple[str, str]]:
    """Hydra's flags, with what they do."""
    return FLAGS


def choices(group: str) -> tuple[catalog.Choice, ...]:
    """The choices of a group, with a line about each."""
    return tuple(catalog.choices(group))


def groups() -> Iterator[Group]:
    """Every group whose choices build something: those of `conf/train.yaml` in its order, the others, and Hydra's."""
    chosen = {name: choice for name, choice in catalog.groups_of("train").items() if name not in _WITHOUT_TARGET}
    others = [name for name in catalog.group_names() if name not in {*chosen, *_WITHOUT_TARGET}]
    for name in (*chosen, *others, *HYDRA_GROUPS):
        nodes = list(_nodes(name, chosen.get(name)))
        shared = _shared(nodes) if len(nodes) > 1 else ()
        yield Group(
            name=name,
            default=chosen.get(name),
            choices=_choices_in(name),
            shared=shared,
            nodes=tuple(replace(node, settings=_less(node.settings, shared)) for node in nodes),
        )


_WORTH_A_TABLE = 3


def _shared(nodes: Sequence[Node]) -> tuple[Setting, ...]:
    """What every class of a group takes, with the same meaning and default; nothing if that is hardly anything."""
    others = [set(node.settings) for node in nodes[1:]]
    found = tuple(one for one in nodes[0].settings if all(one in other for other in others))
    return found if len(found) >= _WORTH_A_TABLE else ()


def _less(settings: Sequence[Setting], shared: Sequence[Setting]) -> tuple[Setting, ...]:
    known = {one.key for one in shared}
    return tuple(one for one in settings if one.key not in known)


def metrics() -> Iterator[MetricFacts]:
    """Every metric."""
    for choice in catalog.metrics():
        info = load_metric(choice.name).info
        # The version of the library that is installed is this machine's, not the metric's.
        libraries = re.sub(r" [\d.]+(?:\w+)?(?=,|$)", "", info.library)
        yield MetricFacts(
            name=choice.name,
            summary=choice.summary,
            scale=info.scale,
            direction={"maximize": "higher", "minimize": "lower"}.get(info.direction, info.direction),
            library=libraries,
        )


def tasks() -> Iterator[TaskFacts]:
    """Every task."""
    for choice in catalog.choices("task"):
        node = _content("task", choice.name)
        target = import_target(node["_target_"], "task")
        measured = node.get("metrics") or getattr(target, "metrics", ())
        named = tuple(measured) if isinstance(measured, (list, tuple)) else ()
        yield TaskFacts(name=choice.name, summary=choice.summary, version=target.version, metrics=named)


def experiments() -> Iterator[ExperimentFacts]:
    """Every experiment."""
    for path in sorted((settings.conf_dir() / "experiment").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        header = " ".join(re.findall(r"^# *(.*)$", text.split("\n\n")[0], re.MULTILINE))
        expected = re.search(r"Expect: (.*?)(?= (?:Memory|Settings|Differs):|$)", header)
        yield ExperimentFacts(
            name=path.stem,
            summary=next(c.summary for c in catalog.choices("experiment") if c.name == path.stem),
            chosen=_chosen_by(path),
            expect=expected[1] if expected else "",
        )


def fields(document: str) -> Iterator[tuple[str, tuple[Setting, ...]]]:
    """The parts of a file, each with its fields; `default` is empty, as a file states everything."""
    for part, kind in DOCUMENTS[document].items():
        hints, meanings = get_type_hints(kind, include_extras=True), _meanings(kind)
        keys = inspect.signature(kind).parameters
        yield (
            part,
            tuple(Setting(key=key, type=spoken(hints[key]), default="", meaning=meanings.get(key, "")) for key in keys),
        )


def _chosen_by(experiment: Path) -> Mapping[str, str]:
    """The choices of groups that an experiment makes, itself or by the experiment that it begins with."""
    chosen: dict[str, str] = {}
    for entry in _loaded(experiment)["defaults"]:
        if isinstance(entry, str) and entry != "_self_":
            chosen |= _chosen_by(experiment.with_name(f"{entry}.yaml"))
        elif isinstance(entry, Mapping):
            chosen |= {key.removeprefix("override /"): value for key, value in entry.items()}
    return chosen


# Groups

_WITHOUT_TARGET = ("experiment", "sweeps", "hydra")


def _choices_in(group: str) -> tuple[catalog.Choice, ...]:
    """Also of Hydra's own groups, which lie deeper."""
    paths = sorted((settings.conf_dir() / group).glob("*.yaml"))
    known = {choice.name: choice for choice in catalog.choices(group)}
    return tuple(known[path.stem] for path in paths)


def _nodes(group: str, default: str | None) -> Iterator[Node]:
    """One for each class; the default choice comes first, so that its defaults do."""
    names = sorted((choice.name for choice in _choices_in(group)), key=lambda name: (name != default, name))
    contents = {name: _content(group, name) for name in names}
    for target in dict.fromkeys(content["_target_"] for content in contents.values()):
        those = {name: content for name, content in contents.items() if content["_target_"] == target}
        yield Node(
            target=target,
            choices=tuple(sorted(those)),
            settings=tuple(_settings_of(_class_of(target, group), group, those)),
        )


def _class_of(target: str, group: str) -> Callable[..., Any]:
    return SweeperSettings if target == _SWEEPER else import_target(target, group)


def _content(group: str, name: str) -> dict[str, Any]:
    """A choice with what it inherits from another choice of its group."""
    content = _loaded(settings.conf_dir() / group / f"{name}.yaml")
    bases = [entry for entry in content.pop("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    inherited: dict[str, Any] = {}
    for base in bases:
        inherited |= _content(group, base)
    return inherited | content


def _loaded(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def _settings_of(
    target: Callable[..., Any], group: str, contents: Mapping[str, Mapping[str, Any]]
) -> Iterator[Setting]:
    hints, meanings = _hints(target), _meanings(target)
    keys = dict.fromkeys(key for content in contents.values() for key in content if not key.startswith("_"))
    for key in keys:
        stated = [name for name, content in contents.items() if key in content]
        comment = next(filter(None, (_comments(group, name).get(key, "") for name in stated)), "")
        # Lightning's own words are about more than what is left to its Trainer here.
        meaning = comment if target.__module__.startswith("pytorch_lightning") else meanings.get(key) or comment
        values = {name: contents[name][key] for name in stated}
        yield Setting(key=key, type=spoken(hints.get(key, Any)), default=_default(values), meaning=meaning)


def _default(values: Mapping[str, Any]) -> str:
    """The one default; of several, the first choice's, then the others' with their choices."""
    by_value: dict[str, list[str]] = {}
    for name, value in values.items():
        by_value.setdefault(_shown(value), []).append(name)
    if len(by_value) == 1:
        return next(iter(by_value))
    if len(by_value) > 4:
        return "set by each choice"
    return "; ".join(f"{shown} in {', '.join(f'`{name}`' for name in names)}" for shown, names in by_value.items())


def _shown(value: Any) -> str:
    if value == "???":
        return "required"
    if isinstance(value, str) and "${" in value:
        return "computed"
    if isinstance(value, str):
        return f"`{value}`" if value.strip() == value and value else f'`"{value}"`'
    if isinstance(value, Mapping) and value:
        return "see the file"
    return f"`{yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}`"


# Settings


def _root_settings(verb: Verb) -> tuple[Setting, ...]:
    """The keys at the root of a verb's YAML."""
    hints, meanings = _hints(verb.settings), _meanings(verb.settings)
    content = _loaded(settings.conf_dir() / f"{verb.name}.yaml")
    content.pop("defaults", None)
    return tuple(
        Setting(
            key=key,
            type=spoken(hints[key]),
            default=_shown(value),
            meaning=meanings.get(key) or _comments("", verb.name).get(key, ""),
        )
        for key, value in content.items()
    )


@cache
def _comments(group: str, name: str) -> Mapping[str, str]:
    """The comment behind each key of a file."""
    text = (settings.conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r'^"?(\w+)"?:.*?\s# *(.+?) *$', text, re.MULTILINE))


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    return get_type_hints(inspect.unwrap(function), include_extras=True)


def _meanings(target: Callable[..., Any]) -> dict[str, str]:
    """What docstrings say of arguments: the class's own, then its bases'."""
    found: dict[str, str] = {}
    for kind in inspect.getmro(target) if inspect.isclass(target) else (target,):
        found = {**_arguments(inspect.cleandoc(kind.__doc__ or "")), **found}
    return found


def _arguments(docstring: str) -> dict[str, str]:
    """The `Args:` of a docstring in Google's style, each joined to one line."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
    if section is None:
        return {}
    entries = re.split(r"^ {4}(?=\w+:)", section[1], flags=re.MULTILINE)
    pairs = (entry.partition(":") for entry in entries if entry.strip())
    return {key.strip(): " ".join(text.split()) for key, _, text in pairs}


# Types

_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def spoken(annotation: Any) -> str:
    """A type with its range, as a user would say it: `int | None` with `Ge(1)` is "int ≥ 1 or `null`"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [
            f"{sign} {getattr(one, name):,}"
            for one in arguments[1:]
            for name, sign in _BOUNDS.items()
            if hasattr(one, name)
        ]
        kept = ["not empty"] if any(getattr(one, "min_length", 0) for one in arguments[1:]) else []
        return ", ".join([" ".join([spoken(arguments[0]), *bounds[:1]]), *bounds[1:], *kept])
    if origin is Literal:
        return _one_of([f"`{argument}`" for argument in arguments])
    if origin in (Union, UnionType):
        members = [spoken(argument) for argument in arguments if not _is_lightnings(argument)]
        parts = dict.fromkeys(part for member in members for part in _parts(member))
        # Python gives `float | int` for `int | float` if that was written anywhere before.
        return _one_of(sorted(parts, key=lambda part: {"float": 1, "`null`": 2}.get(part, 0)))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {spoken(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)} {spoken(arguments[0])}"
    if origin is not None and issubclass(origin, Mapping):
        return f"mapping of {spoken(arguments[0])} to {spoken(arguments[1])}"
    if origin is not None and issubclass(origin, Sequence) and arguments:
        return f"list of {spoken(arguments[0])}"
    if annotation is NoneType:
        return "`null`"
    if is_dataclass(annotation):
        return "object"
    return "any" if annotation is Any else str(getattr(annotation, "__name__", annotation))


def _is_lightnings(annotation: Any) -> bool:
    """A class that no config can hold."""
    return getattr(annotation, "__module__", "").startswith(("pytorch_lightning", "lightning_fabric", "datetime"))


def _parts(text: str) -> list[str]:
    """The alternatives of a type that is itself one of several, so that they are listed once."""
    return re.split(r", (?=`)| or ", text)


def _one_of(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"
