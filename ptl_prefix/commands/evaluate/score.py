"""`ptl-prefix score`: computes metrics of a predictions file, as a table, JSON or CSV.

In: `predictions.jsonl` of any system. Out: metrics on standard output; metrics that were skipped, with reasons, on
standard error. It loads no model and does not import torch.
"""

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.metric_key import split_group
from ptl_prefix.artifacts.predictions import read_predictions
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.commands.evaluate.bertscore_setting import bertscore_problems
from ptl_prefix.errors import ConfigError, DataError
from ptl_prefix.evaluation.metric import metric_name_mistakes
from ptl_prefix.evaluation.scoring import Scores, score
from ptl_prefix.training.console import EscapingConsole


def cross_problems(config: Mapping[str, Any], built: Mapping[str, Any]) -> list[str]:
    """Return unknown metric names, and problems of `bertscore_model`."""
    given, model = config.get("metrics"), config.get("bertscore_model")
    names = [name for name in given if isinstance(name, str)] if isinstance(given, list) else []
    return metric_name_mistakes(names, "metrics") + bertscore_problems(model, names)


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Print the metrics of a file.

    Args:
        config: `metrics`, `format`, `resamples`, `seed` and `bertscore_model`.
        words: Path of the predictions file.
        run_folder: Not used, because scoring is not a run.
    """
    if len(words) != 1:
        raise ConfigError([f"`score` needs one predictions file, but got {' '.join(words) or 'none'}."])
    predictions = read_predictions(words[0])
    scores = score(
        predictions,
        config["metrics"],
        resamples=config["resamples"],
        seed=config["seed"],
        settings={"bertscore": {"model": config["bertscore_model"]}},
    )
    if scores.inapplicable:
        reasons = "\n".join(f"  - {reason}" for reason in scores.inapplicable.values())
        raise DataError(
            f"{words[0]} must contain what every metric needs, but does not; remove these metrics:\n{reasons}"
        )
    for name, reason in scores.unavailable.items():
        print(escape_controls(f"{name} is skipped: {reason}"), file=sys.stderr)
    if config["format"] == "json":
        print(json.dumps(_structured(scores)))
    elif config["format"] == "csv":
        _write_csv(scores)
    else:
        EscapingConsole().print(_table(scores, f"{len(predictions):,} predictions of {words[0]}"))


def _structured(scores: Scores) -> dict[str, Any]:
    """Values by metric, then `intervals` by metric, then `groups` by name, each with the same structure."""
    structured: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in scores.values.items():
        metric, group = split_group(name)
        part = groups.setdefault(group, {}) if group else structured
        part[metric] = value
        if name in scores.intervals:
            part.setdefault("intervals", {})[metric] = list(scores.intervals[name])
    return {**structured, **({"groups": groups} if groups else {})}


def _write_csv(scores: Scores) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["metric", "value", "low", "high", "scale", "direction", "version", "library", "group"])
    for name, value in scores.values.items():
        info = scores.infos[name]
        metric, group = split_group(name)
        low, high = scores.intervals.get(name, ("", ""))
        scale = [info.scale, info.direction, info.version, info.library]
        writer.writerow([metric, value, low, high, *scale, escape_controls(group)])


def _table(scores: Scores, title: str) -> Table:
    table = Table(title=Text(escape_controls(title)), title_justify="left")
    has_groups = any(split_group(name)[1] for name in scores.values)
    left_out = {"group": not has_groups, "95% interval": not scores.intervals}
    for heading in ("metric", "group", "value", "95% interval", "better", "scale", "library"):
        if not left_out.get(heading):
            is_number = heading in ("value", "95% interval")
            # Only the library may wrap on a narrow terminal; a truncated name or number would be useless.
            table.add_column(heading, justify="right" if is_number else "left", no_wrap=heading != "library")
    for name, value in scores.values.items():
        info = scores.infos[name]
        low_to_high = [" to ".join(f"{end:.2f}" for end in scores.intervals[name])] if scores.intervals else []
        better = "lower" if info.direction == "minimize" else "higher"
        names = [Text(escape_controls(part)) for part in split_group(name)[: 1 + has_groups]]
        table.add_row(*names, f"{value:.4f}", *low_to_high, better, info.scale, info.library)
        for part, number in scores.parts.get(name, {}).items():
            table.add_row(f"  {part}", *[""] * has_groups, f"{number:,.0f}", style="dim")
    return table
