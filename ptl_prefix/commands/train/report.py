"""The output of `train` on the terminal.

In: the outcome of a run, or the estimate of a dry run. Out: tables, decoded examples, and the paths of the files.
"""

from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptl_prefix.artifacts.conversation import readable_source
from ptl_prefix.artifacts.metric_key import bare_key, is_bare
from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.artifacts.run_record import Selection
from ptl_prefix.artifacts.visible_text import escape_controls
from ptl_prefix.commands.terminal import format_example, format_megabytes
from ptl_prefix.training.console import EscapingConsole
from ptl_prefix.training.dry_run import Estimate
from ptl_prefix.training.training_run import Outcome

_NUM_EXAMPLES = 3


def show_outcome(outcome: Outcome, folder: RunFolder, console: Console | None = None) -> None:
    """Print the metrics before and after training, the cost, some examples, and the paths."""
    console = console or EscapingConsole()
    console.print(_metrics_table(outcome))
    console.print(_cost_table(outcome))
    for index, adapted in enumerate(outcome.adapted[:_NUM_EXAMPLES]):
        console.print(format_example("source", readable_source(adapted.source), "bold"))
        if outcome.bare:
            console.print(format_example("bare", outcome.bare[index].hypothesis, "dim"))
        console.print(format_example("adapted", adapted.hypothesis, "green"))
        console.print(format_example("reference", adapted.references[0], ""))
        console.print()
    console.print(Text(f"run:    {folder.path}"), soft_wrap=True)
    console.print(Text(f"bundle: {folder.bundle}"), soft_wrap=True)
    if folder.model.is_dir():
        console.print(Text(f"model:  {folder.model}"), soft_wrap=True)


def show_estimate(estimate: Estimate, config: dict[str, Any], console: Console | None = None) -> None:
    """Print the estimate, and below it the resolved config."""
    console = console or EscapingConsole()
    table = Table(title="Dry run: nothing was loaded, nothing is trained", title_justify="left", show_header=False)
    rows = {
        "trainable parameters": f"{estimate.num_trainable:,}",
        "stored parameters": f"{estimate.num_stored:,}",
        "frozen parameters": f"{estimate.num_frozen:,}",
        "training pairs": f"{estimate.pairs:,} (longest row {estimate.longest_tokens} tokens)",
        "steps": f"{estimate.steps:,} ({estimate.epochs:.2f} epochs)",
        **({"choice of the best checkpoint": estimate.selection} if estimate.selection else {}),
        **_memory_rows(estimate),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    for note in estimate.plan_notes:
        console.print(Text(note), soft_wrap=True)
    for note in estimate.notes:
        console.print(Text(f"the {config['method']['name']} {note}"), soft_wrap=True)
    for note in estimate.backbone_notes:
        console.print(Text(f"{config['backbone']['name']} {note}"), soft_wrap=True)
    console.print(Text(f"\n{yaml.safe_dump(config, sort_keys=False, allow_unicode=True)}".rstrip()), soft_wrap=True)


def _memory_rows(estimate: Estimate) -> dict[str, str]:
    """Memory of each device by purpose; activations and the update never need theirs at the same time."""
    each = f"on each of {estimate.num_devices} devices, " if estimate.num_devices > 1 else ""
    rows = {
        "memory, estimated": f"{format_megabytes(estimate.memory_bytes)} {each}without the libraries",
        "  backbone": format_megabytes(estimate.backbone_bytes),
        "  trainable parameters and optimizer": format_megabytes(estimate.optimizer_bytes),
        "  gradients": format_megabytes(estimate.gradient_bytes),
        "  activations of the longest batch": format_megabytes(estimate.activation_bytes),
    }
    if estimate.update_bytes > estimate.activation_bytes:
        rows["  or, during the update"] = format_megabytes(estimate.update_bytes)
    if estimate.hidden_state_bytes:
        rows["hidden states, on disk"] = f"{format_megabytes(estimate.hidden_state_bytes)}, for all epochs and runs"
    opposite = "false" if estimate.uses_checkpointing else "true"
    rows[f"with gradient_checkpointing={opposite}"] = format_megabytes(estimate.other_memory_bytes)
    return rows


def _metrics_table(outcome: Outcome) -> Table:
    record = outcome.record
    table = Table(
        title=f"{record.method} on {record.backbone}, {record.task}, seed {record.seed}",
        title_justify="left",
        caption=_caption(outcome),
        caption_justify="left",
    )
    for heading in ("metric", "before", "after", "", "scale"):
        is_number = heading in ("before", "after")
        # On a narrow screen only the scale may wrap: the other cells must stay readable.
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=heading != "scale")
    for name, value in record.metrics.items():
        if not is_bare(name):
            before = record.metrics.get(bare_key(name))
            info = record.metric_info[name]
            better = "lower is better" if info.direction == "minimize" else "higher is better"
            table.add_row(
                Text(escape_controls(name)),
                "" if before is None else f"{before:.4f}",
                f"{value:.4f}",
                better,
                info.scale,
            )
    return table


def _caption(outcome: Outcome) -> str:
    num_decoded, num_in_split = len(outcome.adapted), outcome.num_in_split
    if num_decoded == num_in_split:
        decoded = f"text metrics: all {num_in_split} inputs of the split"
    else:
        decoded = f"text metrics: {num_decoded} of the split's {num_in_split} inputs; all: evaluation.num_examples=null"
    selection = outcome.record.selection
    return decoded if selection is None else f"{decoded}\n{_selection(selection, outcome.record.cost.train_s)}"


def _selection(selection: Selection, train_s: float) -> str:
    """What chose the best checkpoint, and the cost of that."""
    value = "no finite value" if selection.value is None else f"{selection.value:.4f}"
    share = selection.decode_s / max(selection.decode_s + train_s, 1e-9)
    return (
        f"best checkpoint: step {selection.step}, by {selection.metric} of {selection.num_examples} inputs ({value})\n"
        f"decoding for that took {selection.decode_s:.1f} s, {share:.0%} of training"
    )


def _cost_table(outcome: Outcome) -> Table:
    parameters, cost = outcome.record.parameters, outcome.record.cost
    table = Table()
    values = {
        "trained": f"{parameters.trained:,}",
        "stored": f"{parameters.stored:,}",
        "frozen": f"{parameters.backbone:,}",
        "steps": f"{cost.steps:,}" + (f" ({cost.skipped_steps:,} skipped)" if cost.skipped_steps else ""),
        "seconds": f"{cost.train_s:.1f}",
        "tokens/s": f"{cost.tokens_per_s:,.0f}",
        "peak memory": "" if cost.peak_memory_bytes is None else format_megabytes(cost.peak_memory_bytes),
    }
    for heading in values:
        table.add_column(heading, justify="right")
    table.add_row(*values.values())
    return table
