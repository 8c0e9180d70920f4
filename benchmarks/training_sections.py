"""The page's sections on training: steps, epochs, losses, rows and logits.

In: the JSON report that a benchmark wrote. Out: a `Section`. Nothing is measured here, so that a page can be written
again from stored reports alone.
"""

import statistics

from benchmarks.goals import Goal
from benchmarks.plots import Bars
from benchmarks.section import Report, Section, shown_median, shown_ms, shown_ratio, table_of


def step_time(report: Report) -> Section:
    """Time and memory of training steps."""
    steps = [(measured["setting"]["shape"], one) for measured in report["measured"] for one in measured["measurements"]]
    return Section(
        table=table_of(
            "shape|step|trainable parameters|rounds|median ms|peak MB|speed over full|speed over PEFT",
            (
                (
                    shape,
                    one["label"],
                    f"{one['num_trained']:,}",
                    str(one["rounds"]),
                    shown_ms(one["step_s"]),
                    "" if one["peak_memory_bytes"] is None else f"{one['peak_memory_bytes'] / 1e6:,.0f}",
                    shown_ratio(one["speed_over_full"]),
                    shown_ratio(one["speed_over_peft"]),
                )
                for shape, one in steps
            ),
        ),
        plot=Bars(
            "speed over PEFT with the same parameters",
            {
                f"{one['label']}, {shape}": one["speed_over_peft"]["median"]
                for shape, one in steps
                if one["speed_over_peft"] is not None
            },
            line=1.0,
        ),
    )


def peft_trainer(report: Report) -> Section:
    """Epochs of E2E here and in the Hugging Face Trainer."""
    found = report["measurements"]
    shared = [one for one in found if (one["method"], one["contender"]) == ("prefix", "ours, shared sources")]
    return Section(
        table=table_of(
            "method|contender|trainable parameters|median s|over the Trainer's defaults|over its best settings",
            (
                (
                    one["method"],
                    one["contender"],
                    f"{one['num_trained']:,}",
                    shown_median(one["seconds"]),
                    shown_ratio(one["over_defaults"]),
                    shown_ratio(one["over_best"]),
                )
                for one in found
            ),
        ),
        plot=Bars(
            "time over PEFT in the Trainer with its defaults",
            {f"{one['method']}: {one['contender']}": one["over_defaults"]["median"] for one in found},
            line=1.0,
        ),
        goals=[
            Goal(f"prefix, shared sources, over PEFT with the Trainer's {name}", one[key]["median"], bound)
            for one in shared
            for name, key, bound in (("defaults", "over_defaults", 0.30), ("best settings", "over_best", 0.45))
        ],
        remarks=[
            f"A sample of {report['num_inputs']} of E2E's 4,862 training inputs, with all of their references "
            f"({report['num_pairs']} pairs), in batches of {report['batch_size']}; {report['shape']} shape, "
            f"{report['dtype']}."
        ],
    )


def prefix_vs_peft(report: Report) -> Section:
    """Validation losses after the same steps."""
    rows = [["bare backbone", "", "0", "", f"{report['bare']:.4f}"]]
    for label in dict.fromkeys(one["label"] for one in report["results"]):
        own = [one for one in report["results"] if one["label"] == label]
        curves = [sorted((int(step), loss) for step, loss in one["val_loss_by_step"].items()) for one in own]
        ends = [f"{statistics.mean(curve[place][1] for curve in curves):.4f}" for place in (0, -1)]
        rows.append([label, f"{own[0]['lr']:g}", f"{own[0]['num_trained']:,}", *ends])
    return Section(table=table_of("method|learning rate|trainable parameters|loss at the start|loss at the end", rows))


_LAYER_GOALS = {"upper half": 0.70, "upper quarter": 0.45}


def frozen_layers(report: Report) -> Section:
    """Steps that start at the lowest layer with a prefix."""
    found = report["measurements"]
    cached = [one for one in found if one["cached_over_plain"] is not None]
    return Section(
        table=table_of(
            "shape|prefix in|median ms|cached, ms|cached / plain|plain / all layers|pays after epochs",
            (
                (
                    one["shape"],
                    f"{one['layers']} ({one['num_layers']})",
                    shown_ms(one["step_s"]),
                    shown_ms(one["cached_step_s"]),
                    shown_ratio(one["cached_over_plain"]),
                    shown_ratio(one["plain_over_all"]),
                    "" if one["pays_after_epochs"] is None else f"{one['pays_after_epochs']:.1f}",
                )
                for one in found
            ),
        ),
        plot=Bars(
            "time of a step with the lower layers computed once, over the same step without",
            {f"{one['layers']}, {one['shape']}": one["cached_over_plain"]["median"] for one in cached},
            line=1.0,
        ),
        goals=[
            Goal(
                f"a step with the {one['layers']}, {one['shape']} shape, cached over plain",
                one["cached_over_plain"]["median"],
                _LAYER_GOALS[one["layers"]],
            )
            for one in cached
        ],
    )


def row_layouts(report: Report) -> Section:
    """Packed rows and shared sources."""
    found = report["measurements"]
    names = ("computed_per_needed", "tokens_per_plain", "training", "validation")
    goals = [
        Goal(f"positions computed over needed, packed, {one['task']}", one["computed_per_needed"], 1.03)
        for one in found
        if one["layout"] == "packing"
    ]
    goals += [
        Goal("validation of E2E with shared sources over rows of one pair", one["validation"], 0.60)
        for one in found
        if (one["task"], one["layout"]) == ("e2e", "shared sources")
    ]
    return Section(
        table=table_of(
            "task|rows|computed / needed|positions / one pair|training / one pair|validation / one pair",
            ((one["task"], one["layout"], *(f"{one[name]:.3f}" for name in names)) for one in found),
        ),
        plot=Bars(
            "time per target token in training, over rows of one pair",
            {f"{one['layout']}, {one['task']}": one["training"] for one in found if one["training"] != 1},
            line=1.0,
        ),
        goals=goals,
    )


def head_memory(report: Report) -> Section:
    """Logits in chunks beside all logits at once."""
    found = report["measurements"]
    chunked = [one for one in found if one["way"] == "in chunks"]
    return Section(
        table=table_of(
            "batch of|logits|peak MB|median s|time over all at once",
            (
                (
                    one["stage"],
                    one["way"],
                    f"{one['peak_bytes'] / 1e6:,.0f}",
                    shown_median(one["seconds"]),
                    shown_ratio(one["over_whole"]),
                )
                for one in found
            ),
        ),
        plot=Bars("peak MB", {f"{one['stage']}, {one['way']}": one["peak_bytes"] / 1e6 for one in found}),
        goals=[
            *(Goal(f"peak memory, {one['stage']}", one["peak_bytes"] / 1e9, 2.0, unit="GB") for one in chunked),
            *(Goal(f"time over all at once, {one['stage']}", one["over_whole"]["median"], 1.02) for one in chunked),
        ],
        remarks=[
            f"{report['setting']['shape']} shape, {report['setting']['dtype']}, training batches of "
            f"{report['setting']['batch_size']} rows and validation batches of {report['validation_rows']}; chunks of "
            f"{report['chunk']} positions. The memory is that of a whole process, libraries included."
        ],
    )


def compiled_layers(report: Report) -> Section:
    """Compiled layers beside plain ones."""
    steps = report["training_steps"]
    compiled = [shown_ms(report["compiled_s"]), f"{report['first_s']:.1f}", shown_ratio(report["speed"])]
    return Section(
        table=table_of(
            f"layers|median ms|first step, s|speed of a step|speed of {steps} steps",
            [
                ["plain", shown_ms(report["plain_s"]), "", "1", "1"],
                ["compiled", *compiled, f"{report['training_speed']:.3f}"],
            ],
        ),
        remarks=[f"No training compiles layers: {steps} steps would have to be 1.1 times as fast."],
    )
