"""`ptl-prefix score`: a file of predictions becomes numbers, as a table, JSON or CSV.

In: `predictions.jsonl`, of any system's. Out: the numbers on standard output; on standard error, which metrics this
machine cannot compute. It needs no model and imports no torch.
"""

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ptl_prefix.artifacts.predictions import read_predictions
from ptl_prefix.commands.evaluate.bertscore_setting import encoder_mistakes
from ptl_prefix.errors import ConfigError, DataError
from ptl_prefix.evaluation.metric import name_mistakes
from ptl_prefix.evaluation.scoring import Scores, score


def cross_problems(config: Mapping[str, Any], built: Mapping[str, Any]) -> list[str]:
    """Names of no metric, and an encoder that is missing or that nobody asked for."""
    given, model = config.get("metrics"), config.get("bertscore_model")
    names = [name for name in given if isinstance(name, str)] if isinstance(given, list) else []
    return name_mistakes(names, "metrics") + encoder_mistakes(model, names)


def run(config: dict[str, Any], words: tuple[str, ...], run_folder: Path) -> None:
    """Print the metrics of a file.

    Args:
        config: `metrics`, `format`, `resamples`, `seed` and `bertscore_model`.
        words: The file.
        run_folder: Not used; measuring is no run.
    """
    if len(words) != 1:
        raise ConfigError([f"`score` needs one file of predictions, but got {' '.join(words) or 'none'}."])
    predictions = read_predictions(words[0])
    scores = score(
        predictions,
        config["metrics"],
        resamples=config["resamples"],
        seed=config["seed"],
        settings={"bertscore": {"model": config["bertscore_model"]}},
    )
    if scores.unfit:
        facts = "\n".join(f"  - {reason}" for reason in scores.unfit.values())
        raise DataError(f"{words[0]} must have what each metric needs, but lacks some; leave these out:\n{facts}")
    for name, reason in scores.missing.items():
        print(f"no {name}: {reason}", file=sys.stderr)
    if config["format"] == "json":
        print(json.dumps(_flat(scores)))
    elif config["format"] == "csv":
        _write_csv(scores)
    else:
        Console().print(_table(scores, f"{len(predictions):,} predictions of {words[0]}"))


def _flat(scores: Scores) -> dict[str, float]:
    """The numbers by metric; where there are intervals, `<metric>_low` and `<metric>_high` follow each."""
    flat: dict[str, float] = {}
    for name, value in scores.values.items():
        flat[name] = value
        if name in scores.intervals:
            flat[f"{name}_low"], flat[f"{name}_high"] = scores.intervals[name]
    return flat


def _write_csv(scores: Scores) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["metric", "value", "low", "high", "scale", "direction", "version", "library"])
    for name, value in scores.values.items():
        info = scores.infos[name]
        low, high = scores.intervals.get(name, ("", ""))
        writer.writerow([name, value, low, high, info.scale, info.direction, info.version, info.library])


def _table(scores: Scores, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("metric", "value", "95% interval", "better", "scale", "library"):
        if heading != "95% interval" or scores.intervals:
            is_number = heading in ("value", "95% interval")
            # On a narrow screen the library is broken into lines; a name or number that is cut says nothing.
            table.add_column(heading, justify="right" if is_number else "left", no_wrap=heading != "library")
    for name, value in scores.values.items():
        info = scores.infos[name]
        low_to_high = [" to ".join(f"{end:.2f}" for end in scores.intervals[name])] if scores.intervals else []
        better = "lower" if info.direction == "minimize" else "higher"
        table.add_row(name, f"{value:.4f}", *low_to_high, better, info.scale, info.library)
        for part, number in scores.parts.get(name, {}).items():
            table.add_row(f"  {part}", f"{number:,.0f}", style="dim")
    return table
