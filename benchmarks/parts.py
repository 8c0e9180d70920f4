"""The parts of `make bench`: which benchmarks are run, how long each may take, and the table of each one's result.

In: the JSON report that a benchmark wrote. Out: the headings and rows of its table, and numbers for its plot. Nothing
is measured here, so that a page can be written again from stored reports alone.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]
Rows = list[list[str]]
"""The headings, then a row for each line of the table; numbers are text."""


@dataclass(frozen=True)
class Bars:
    """A plot of one number for each label.

    Args:
        unit: What the numbers are.
        values: Number of each label.
        line: Number at which a line is drawn, such as a ratio of 1; `None` for none.
    """

    unit: str
    values: Mapping[str, float]
    line: float | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A benchmark, as `make bench` runs it.

    Args:
        module: Module in `benchmarks/`; also the name of its result.
        title: Heading of its section.
        about: What the table shows, in one or two sentences.
        words: Arguments of the whole run; `{data}` stands for the folder of real data.
        quick_words: Arguments of the quick run; `None` leaves the part out.
        limit_s: Most seconds of the whole run.
        quick_limit_s: Most seconds of the quick run.
        table: The table of a report.
        bars: The plot of a report; `None` for no plot.
        flag: The benchmark's argument for the path of its report.
    """

    module: str
    title: str
    about: str
    words: Sequence[str]
    quick_words: Sequence[str] | None
    limit_s: int
    quick_limit_s: int
    table: Callable[[Report], Rows]
    bars: Callable[[Report], Bars] | None = None
    flag: str = "--json"

    def needs_data(self, words: Sequence[str]) -> bool:
        """Whether arguments name the folder of real data."""
        return any("{data}" in word for word in words)


def _step_rows(report: Report) -> Rows:
    rows = [["shape", "step", "trainable parameters", "median ms", "peak MB", "speed over full", "speed over PEFT"]]
    for measured in report["measured"]:
        for one in measured["measurements"]:
            peak = "" if one["peak_memory_bytes"] is None else f"{one['peak_memory_bytes'] / 1e6:,.0f}"
            ratios = [_ratio(one[name]) for name in ("speed_over_full", "speed_over_peft")]
            step = f"{one['step_s'] * 1e3:.1f}"
            rows.append([measured["setting"]["shape"], one["label"], f"{one['num_trained']:,}", step, peak, *ratios])
    return rows


def _step_bars(report: Report) -> Bars:
    return Bars(
        "speed over PEFT with the same parameters",
        {
            f"{one['label']}, {measured['setting']['shape']}": one["speed_over_peft"]["median"]
            for measured in report["measured"]
            for one in measured["measurements"]
            if one["speed_over_peft"] is not None
        },
        line=1.0,
    )


def _loss_rows(report: Report) -> Rows:
    rows = [["method", "learning rate", "trainable parameters", "loss at the start", "loss at the end"]]
    rows.append(["bare backbone", "", "0", "", f"{report['bare']:.4f}"])
    for label in dict.fromkeys(one["label"] for one in report["results"]):
        own = [one for one in report["results"] if one["label"] == label]
        curves = [sorted((int(step), loss) for step, loss in one["val_loss_by_step"].items()) for one in own]
        ends = [f"{statistics.mean(curve[place][1] for curve in curves):.4f}" for place in (0, -1)]
        rows.append([label, f"{own[0]['lr']:g}", f"{own[0]['num_trained']:,}", *ends])
    return rows


def _frozen_rows(report: Report) -> Rows:
    rows = [
        ["shape", "prefix in", "median ms", "cached, ms", "cached / plain", "plain / all layers", "pays after epochs"]
    ]
    for one in report["measurements"]:
        cached = "" if one["cached_step_s"] is None else f"{one['cached_step_s'] * 1e3:.1f}"
        pays = "" if one["pays_after_epochs"] is None else f"{one['pays_after_epochs']:.1f}"
        ratios = [_ratio(one[name]) for name in ("cached_over_plain", "plain_over_all")]
        place = f"{one['layers']} ({one['num_layers']})"
        rows.append([one["shape"], place, f"{one['step_s'] * 1e3:.1f}", cached, *ratios, pays])
    return rows


def _frozen_bars(report: Report) -> Bars:
    return Bars(
        "time of a step with the lower layers computed once, over the same step without",
        {
            f"{one['layers']}, {one['shape']}": one["cached_over_plain"]["median"]
            for one in report["measurements"]
            if one["cached_over_plain"] is not None
        },
        line=1.0,
    )


def _layout_rows(report: Report) -> Rows:
    rows = [
        ["task", "rows", "computed / needed", "positions / one pair", "training / one pair", "validation / one pair"]
    ]
    names = ("computed_per_needed", "tokens_per_plain", "training", "validation")
    for one in report["measurements"]:
        rows.append([one["task"], one["layout"], *(f"{one[name]:.3f}" for name in names)])
    return rows


def _layout_bars(report: Report) -> Bars:
    return Bars(
        "time per target token in training, over rows of one pair",
        {f"{one['layout']}, {one['task']}": one["training"] for one in report["measurements"] if one["training"] != 1},
        line=1.0,
    )


def _decoding_rows(report: Report) -> Rows:
    rows = [["contender", "median s", "slowest s", "over the bare backbone"]]
    for name, seconds in report["seconds"].items():
        numbers = (f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}", f"{report['times_bare'][name]:.3f}")
        rows.append([name, *numbers])
    return rows


def _decoding_bars(report: Report) -> Bars:
    return Bars("time over the bare backbone's", report["times_bare"], line=1.0)


def _serving_rows(report: Report) -> Rows:
    rows = [["contender", "over", "median", "least", "largest", "goal"]]
    for one, other, median, least, largest, goal in report["ratios"]:
        rows.append([one, other, f"{median:.3f}", f"{least:.3f}", f"{largest:.3f}", goal])
    return rows


def _serving_bars(report: Report) -> Bars:
    return Bars("tokens per second", {name: statistics.median(rates) for name, rates in report["tokens_per_s"].items()})


def _sweep_rows(report: Report) -> Rows:
    return [
        ["", "seconds", "ratio"],
        ["a study", f"{report['a study']:.1f}", f"{report['ratio']:.3f}"],
        ["a process each", f"{report['a process each']:.1f}", "1"],
        ["the first trial of a study starts after", f"{report['first_trial_s']:.1f}", ""],
        ["a trial server alone has imported after", f"{report['server_s']:.1f}", ""],
        ["CPU seconds of the study's command until its first trial", f"{report['command_cpu_s']:.1f}", ""],
    ]


def _start_rows(report: Report) -> Rows:
    return [
        ["", "CPU seconds", "ratio"],
        ["ptl-prefix train", f"{report['cpu_s']['train']:.2f}", f"{report['ratio']:.3f}"],
        ["a script by hand", f"{report['cpu_s']['script']:.2f}", "1"],
        ["ptl-prefix --help", f"{report['help_cpu_s']:.2f}", ""],
    ]


def _ratio(value: Mapping[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.2f} ({value['low']:.2f}-{value['high']:.2f})"


PARTS = (
    Part(
        module="step_time",
        title="One training step, beside PEFT",
        about="Forward, backward and AdamW on one batch of random ids; ratios are medians over rounds, with quartiles.",
        words=["--shape", "gpt2", "small_llama", "--steps", "15"],
        quick_words=["--shape", "tiny", "--steps", "5"],
        limit_s=1050,
        quick_limit_s=90,
        table=_step_rows,
        bars=_step_bars,
    ),
    Part(
        module="prefix_vs_peft",
        title="Validation loss, beside PEFT",
        about="Nats per target token after the same steps on the same batches; nothing is tuned.",
        words=["--steps", "100", "--validation-rows", "200"],
        quick_words=None,
        limit_s=600,
        quick_limit_s=0,
        table=_loss_rows,
    ),
    Part(
        module="frozen_layers",
        title="A prefix in upper layers, with the layers below computed once",
        about="`data.cache_hidden_states`: steps that start at the lowest layer with a prefix, and others.",
        words=["--shape", "gpt2", "small_llama", "--steps", "15"],
        quick_words=["--shape", "tiny", "--steps", "8", "--rows", "160"],
        limit_s=480,
        quick_limit_s=45,
        table=_frozen_rows,
        bars=_frozen_bars,
    ),
    Part(
        module="row_layouts",
        title="Packed rows, and targets that share their prompt",
        about="Real data. Positions that are computed over those that are needed, and time per target token.",
        words=["--data", "{data}/data"],
        quick_words=["--data", "{data}/data", "--tasks", "e2e", "--rounds", "1", "--steps", "8"],
        limit_s=420,
        quick_limit_s=75,
        table=_layout_rows,
        bars=_layout_bars,
        flag="--out",
    ),
    Part(
        module="decode_time",
        title="Decoding with a prefix",
        about="Seconds to generate the new tokens of all rows, over those of the bare backbone.",
        words=["--rounds", "3"],
        quick_words=["--shape", "tiny", "--rounds", "3", "--rows", "8", "--new-tokens", "32"],
        limit_s=300,
        quick_limit_s=45,
        table=_decoding_rows,
        bars=_decoding_bars,
    ),
    Part(
        module="serving",
        title="Serving many prefixes from one backbone",
        about="Tokens per second of one way of serving over another's, within each round.",
        words=["--rounds", "2"],
        quick_words=None,
        limit_s=480,
        quick_limit_s=0,
        table=_serving_rows,
        bars=_serving_bars,
    ),
    Part(
        module="cold_start",
        title="A new command, up to its first step",
        about="CPU seconds of a new process from its start to the end of its first optimizer step, imports included.",
        words=["--rounds", "3"],
        quick_words=["--rounds", "1"],
        limit_s=150,
        quick_limit_s=45,
        table=_start_rows,
        flag="--out",
    ),
    Part(
        module="sweep_start",
        title="Starting the trials of a study",
        about="Seconds of a study of short trainings, over those of a command for each.",
        words=["--trials", "4"],
        quick_words=None,
        limit_s=120,
        quick_limit_s=0,
        table=_sweep_rows,
        flag="--out",
    ),
)
"""In the order of the page."""
