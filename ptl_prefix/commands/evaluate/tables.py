"""Prints an evaluation: metrics, three example outputs, and the paths of the files."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.conversation import readable_source
from ptl_prefix.artifacts.evaluation_record import PREDICTIONS_FILE, RECORD_FILE, EvaluationKey
from ptl_prefix.artifacts.metric_key import parts_of
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.commands.terminal import format_example
from ptl_prefix.evaluation.evaluate import Evaluation

_NUM_EXAMPLES = 3


def show_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print an evaluation."""
    record, key = evaluation.record, evaluation.record.key
    table = Table(
        title=Text(f"{key.method} on {key.backbone}, {key.task}, {key.split}"),
        title_justify="left",
        caption=_caption(evaluation),
        caption_justify="left",
    )
    table.add_column("metric", no_wrap=True)
    has_groups = any(parts_of(key)[2] for key in record.metrics)
    if has_groups:
        table.add_column("group")
    table.add_column("value", justify="right", no_wrap=True)
    if record.intervals:
        table.add_column("95% interval", no_wrap=True)
    table.add_column("better")
    table.add_column("scale")
    for name, value in record.metrics.items():
        split, metric, group = parts_of(name)
        info, ends = record.metric_info[name], record.intervals.get(name)
        interval = [("" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}")] if record.intervals else []
        better = "lower" if info.direction == "minimize" else "higher"
        names = [Text(f"{split}/{metric}"), *([Text(escape_controls(group))] if has_groups else [])]
        table.add_row(*names, f"{value:.4f}", *interval, better, info.scale)
    console.print(table)
    for name, reason in record.skipped.items():
        console.print(Text(escape_controls(f"{name} is skipped: {reason}")), soft_wrap=True)
    for prediction in evaluation.predictions[:_NUM_EXAMPLES]:
        console.print(format_example("source", readable_source(prediction.source), "bold"))
        console.print(format_example("output", prediction.hypothesis, "green"))
        console.print(format_example("reference", prediction.references[0], ""))
        console.print()
    console.print(Text(f"predictions: {evaluation.folder / PREDICTIONS_FILE}"), soft_wrap=True)
    console.print(Text(f"metrics:     {evaluation.folder / RECORD_FILE}"), soft_wrap=True)


def _caption(evaluation: Evaluation) -> str:
    record, key = evaluation.record, evaluation.record.key
    count = "all" if key.num_examples == record.num_in_split else f"{key.num_examples} of"
    duration = f"; decoded in {record.decode_s:.1f} s" if record.decode_s else ""
    return f"{count} {record.num_in_split} inputs; {_decoding(key)}{duration}"


def _decoding(key: EvaluationKey) -> str:
    if key.over_labels:
        return "the most likely label"
    decoding = key.decoding
    if decoding.do_sample:
        return f"sampled at temperature {decoding.temperature:g}, seed {decoding.seed}"
    return "greedy" if decoding.num_beams == 1 else f"{decoding.num_beams} beams"
