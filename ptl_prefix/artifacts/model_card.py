"""The model card of an export: `README.md`, which the Hugging Face hub shows.

In: what is known of a trained method. Out: a header for programs, and Markdown for people. No reader of bundles reads
a card: editing one changes nothing that is loaded. Text of users appears in the header as YAML writes it and in the
body as code, so that no name or setting becomes a key, a link or HTML. No folder of this machine is named.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.fingerprint import package_version
from ptl_prefix.artifacts.hub import CardResult, card_header
from ptl_prefix.artifacts.hub_address import hub_name_of, public_path
from ptl_prefix.artifacts.manifest import BackboneIdentity
from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.artifacts.visible_text import escape_controls

CARD_FILE = "README.md"
HERE = "hub:<user>/<name>"
"""The address of the bundle in a card that is not on the hub yet; `push` replaces it."""

CardKind = Literal["bundle", "peft", "model"]
_LIBRARIES: dict[CardKind, str] = {"bundle": "ptl_prefix", "peft": "peft", "model": "transformers"}
_ENCODER_DECODERS = ("bart", "mbart", "t5", "mt5")


@dataclass(frozen=True, kw_only=True)
class CardMetric:
    """One metric of a card.

    Args:
        value: Value of the metric.
        info: Description of the value; `None` if it is not known.
        interval: 95% bootstrap interval over test items; `None` if none was computed.
        num_examples: Number of examples; `None` if it is not known.
    """

    value: float
    info: MetricInfo | None = None
    interval: tuple[float, float] | None = None
    num_examples: int | None = None


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Everything that a card states.

    Args:
        kind: Form of the export: a `bundle`, an adapter of PEFT, or a whole `model`.
        method: Name of the method.
        settings: Settings of the method that an export keeps.
        task: Name of the task.
        task_version: Version of the task.
        backbone: Identity of the backbone.
        prompt: Prompt format.
        num_stored: Number of parameters in the export.
        num_trained: Number of parameters that were trained; `None` if it is not known.
        num_backbone: Number of parameters of the backbone; `None` if it is not known.
        metrics: Metrics by `split/name`.
        command: Command that trains the method again; `None` if it is not known.
        dataset: Name of the data on the hub; `None` for other data.
        data_licence: Licence of the data; empty if it is not known.
        backbone_licence: Licence of the backbone; empty if it is not known.
    """

    kind: CardKind
    method: str
    settings: Mapping[str, Any]
    task: str
    task_version: str
    backbone: BackboneIdentity
    prompt: PromptFormat
    num_stored: int
    num_trained: int | None = None
    num_backbone: int | None = None
    metrics: Mapping[str, CardMetric] = field(default_factory=dict)
    command: str | None = None
    dataset: str | None = None
    data_licence: str = ""
    backbone_licence: str = ""

    @property
    def public_path(self) -> str | None:
        """Path of the backbone as others can load it; `None` for a folder of this machine."""
        return public_path(self.backbone.path)

    @property
    def base_model(self) -> str | None:
        """Name of the backbone on the hub; `None` if it has none."""
        return hub_name_of(self.backbone.path)


def write_card(folder: Path, facts: CardFacts) -> None:
    """Write the card beside an export.

    Raises:
        StorageError: If the disk does not take the file.
    """
    write_atomically(folder / CARD_FILE, card_text(facts), follow_links=False)


def card_text(facts: CardFacts) -> str:
    """The text of a card."""
    sections = [_title(facts), _facts_table(facts), _results(facts), _use(facts), _training(facts), _licences(facts)]
    return f"{_header(facts)}\n" + "\n".join(section for section in sections if section)


def _header(facts: CardFacts) -> str:
    adapts = facts.kind != "model"
    own = {
        "base_model": facts.base_model,
        "base_model_relation": ("adapter" if adapts else "finetune") if facts.base_model else None,
        "library_name": _LIBRARIES[facts.kind],
        "pipeline_tag": None if facts.backbone.family in _ENCODER_DECODERS else "text-generation",
        "datasets": [facts.dataset] if facts.dataset else None,
        "tags": sorted({"ptl_prefix", _line(facts.method).replace("_", "-")}),
    }
    name = _line(f"{facts.method} of {facts.backbone.name} for {facts.task}")
    return card_header(
        {key: value for key, value in own.items() if value is not None}, name, list(_card_results(facts))
    )


def _card_results(facts: CardFacts) -> Iterator[CardResult]:
    for key, metric in facts.metrics.items():
        split, _, name = key.rpartition("/")
        known = [f"95% interval {_interval(metric.interval)}"] if metric.interval else []
        known += [f"{metric.num_examples} examples"] if metric.num_examples else []
        yield CardResult(
            dataset=facts.dataset or _line(facts.task),
            dataset_name=_line(facts.task),
            split={"val": "validation"}.get(split, split),
            metric=_line(name),
            metric_name=_line(f"{name} ({', '.join(known)})" if known else name),
            value=metric.value,
        )


def _title(facts: CardFacts) -> str:
    what = {"bundle": "This bundle adapts", "peft": "This adapter of PEFT adapts", "model": "This model is"}[facts.kind]
    if facts.base_model:
        named = f"[`{facts.base_model}`](https://huggingface.co/{facts.base_model})"
    else:
        named = _code(facts.public_path or facts.backbone.name)
    rest = " with the trained method merged into its weights" if facts.kind == "model" else ""
    return (
        f"# {_code(facts.method)} of {_code(facts.backbone.name)} for {_code(facts.task)}\n\n"
        f"{what} {named}{rest}. It was written by `ptl_prefix` {package_version()}.\n"
    )


def _facts_table(facts: CardFacts) -> str:
    rows = {
        "method": _code(facts.method),
        "settings": ", ".join(
            _code(f"{key}={json.dumps(value)}") for key, value in facts.settings.items() if value is not None
        ),
        "task": f"{_code(facts.task)}, version {_code(facts.task_version)}",
        "parameters trained": _number(facts.num_trained),
        "parameters stored": _number(facts.num_stored),
        "parameters of the backbone": _number(facts.num_backbone),
        "text before a source": _code(json.dumps(facts.prompt.before, ensure_ascii=False)),
        "text after a source": _code(json.dumps(facts.prompt.between, ensure_ascii=False)),
        "quantization of the backbone": _code(facts.backbone.quantization or ""),
    }
    return _table(("", "value"), [(name, value) for name, value in rows.items() if value])


def _results(facts: CardFacts) -> str:
    if not facts.metrics:
        return ""
    rows = [
        (
            _code(key),
            f"{metric.value:.4g}",
            _interval(metric.interval) if metric.interval else "",
            _number(metric.num_examples),
            "" if metric.info is None else f"{_code(metric.info.scale)}, {_better(metric.info)}",
        )
        for key, metric in facts.metrics.items()
    ]
    return "## Results\n\n" + _table(("metric", "value", "95% interval", "examples", "scale"), rows)


def _use(facts: CardFacts) -> str:
    folder = "<folder of the backbone>"
    if facts.kind == "bundle":
        base = facts.public_path or folder
        return (
            "## Use\n\n"
            + _fenced("console", f'ptl-prefix generate {HERE} "<source>" backbone={_shell_word(base)}')
            + "\n"
            + _fenced(
                "python",
                "from ptl_prefix import load_backbone, load_bundle\n\n"
                f"backbone = load_backbone({base!r})\n"
                f'bundle = load_bundle("{HERE}", backbone)\n'
                'print(bundle.generate(["<source>"]))',
            )
        )
    loading = f"AutoModelForCausalLM.from_pretrained({facts.base_model or folder!r})"
    if facts.kind == "peft":
        lines = ["from peft import PeftModel", "from transformers import AutoModelForCausalLM", ""]
        lines += [f"backbone = {loading}", 'model = PeftModel.from_pretrained(backbone, "<this folder>")']
    else:
        lines = ["from transformers import AutoModelForCausalLM", ""]
        lines += ['model = AutoModelForCausalLM.from_pretrained("<this folder>")']
    code = "\n".join(lines)
    if facts.backbone.family in _ENCODER_DECODERS:
        code = code.replace("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
    return "## Use\n\n" + _fenced("python", code)


def _training(facts: CardFacts) -> str:
    return "" if facts.command is None else "## Train again\n\n" + _fenced("console", facts.command)


def _licences(facts: CardFacts) -> str:
    known = {"data": facts.data_licence, "backbone": facts.backbone_licence}
    lines = [f"- {name}: {_code(licence)}" for name, licence in known.items() if licence]
    lines.append("- this export: not stated; add `license:` to the header above")
    return "## Licences\n\n" + "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; `|` would end a cell even inside a code span."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _line(text: str) -> str:
    """Text in one line, without control characters."""
    return escape_controls(" ".join(text.split()))


def _code(text: str) -> str:
    """Text as a code span, in which nothing is markup."""
    line = _line(text)
    if not line:
        return ""
    fence = "`" * (_longest_run(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def _fenced(language: str, text: str) -> str:
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{escape_controls(text)}\n{fence}\n"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _number(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.4g} to {ends[1]:.4g}"


def _better(info: MetricInfo) -> str:
    return "higher is better" if info.direction == "maximize" else "lower is better"


def _shell_word(text: str) -> str:
    return f"'{text}'" if "<" in text else text
