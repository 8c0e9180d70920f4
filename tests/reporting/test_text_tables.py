"""The CSV, Markdown and LaTeX files, compared as whole text."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from support.made_up_runs import BLEU, INFOS, MadeUp

from ptl_prefix.commands.compare.tables import show_table
from ptl_prefix.reporting.compared_run import ExcludedRun
from ptl_prefix.reporting.comparison import Comparison
from ptl_prefix.reporting.page import render_page
from ptl_prefix.reporting.text_tables import CSV_COLUMNS, as_csv, as_latex, as_markdown

Compared = Callable[..., Comparison]

MARKDOWN = r"""## towns on tiny

| # | method | seeds | test/bleu ↑ | val/loss ↓ |
| ---: | --- | ---: | ---: | ---: |
| 1 | prefix\_tuning prefix\_length=20 | 3 | **61.17** ±3.13 | **1.1167** ±0.3126 |
| 2 | prefix\_tuning prefix\_length=10 | 3 | 60.33 ±3.13 ≈ | 1.2296 ±0.3473 |
| 3 | lora | 3 | 51.17 ±2.98 | 2.1458 ±0.3731 |
|  | bare backbone |  | 5.00 | 3.0000 |

±: 95% confidence interval of the mean over seeds (Student's t). ≈: not significantly different from the best row; ?: not tested; no mark: significantly worse (paired t-test over seeds, Holm's correction, 5% level). The best mean of each column is bold; no test compares rows that the bare backbone reaches. The bare backbone: val/loss 3.0000, test/bleu 5.00.

| # | method | steps | tokens | trainable params | stored params | bundle | tokens/s | peak memory |
| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| 1 | prefix\_tuning prefix\_length=20 | 40 | 4,000 | 1,000 | 200 | 5.0 kB | 400 | 200.0 MB |
| 2 | prefix\_tuning prefix\_length=10 | 40 | 4,000 | 1,000 | 100 | 5.0 kB | 400 | 200.0 MB |
| 3 | lora | 40 | 4,000 | 80 | 80 | 5.0 kB | 400 | 200.0 MB |

- Test metrics are computed on the 3 inputs that were decoded at the end of training.
- Every row has 3 seeds.
- Every row was trained for 40 steps.

### Commands that reproduce each row

1. prefix\_tuning prefix\_length=20

    train 1

2. prefix\_tuning prefix\_length=10

    train 2

3. lora

    train 3
"""  # noqa: E501

LATEX = r"""\begin{tabular}{rlrrr}
\toprule
\# & method & seeds & test/bleu $\uparrow$ & val/loss $\downarrow$ \\
\midrule
1 & prefix\_tuning prefix\_length=20 & 3 & \textbf{61.17} $\pm$3.13 & \textbf{1.1167} $\pm$0.3126 \\
2 & prefix\_tuning prefix\_length=10 & 3 & 60.33 $\pm$3.13 $\approx$ & 1.2296 $\pm$0.3473 \\
3 & lora & 3 & 51.17 $\pm$2.98 & 2.1458 $\pm$0.3731 \\
 & bare backbone &  & 5.00 & 3.0000 \\
\bottomrule
\end{tabular}
"""


@pytest.fixture
def comparison(compared: Compared, two_methods: list[MadeUp]) -> Comparison:
    return compared(*two_methods)


def test_markdown_is_golden(comparison: Comparison) -> None:
    commands = {("towns", "tiny", number): f"train {number}" for number in (1, 2, 3)}

    assert as_markdown(comparison, commands) == MARKDOWN


def test_latex_is_golden(comparison: Comparison) -> None:
    text = as_latex(comparison)

    assert text.startswith("% Needs \\usepackage{booktabs}.\n% towns on tiny\n" + LATEX)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert text.endswith("% Every row was trained for 40 steps.\n")


def test_csv_has_a_line_for_each_row_and_metric(comparison: Comparison) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(comparison))))

    assert list(lines[0]) == CSV_COLUMNS
    assert [(line["row"], line["metric"]) for line in lines] == [
        (row, metric) for row in "123" for metric in ("test/bleu", "val/loss")
    ]
    second = lines[2]
    row = comparison.tables[0].rows[1]
    assert float(second["mean"]) == row.summaries["test/bleu"].mean
    assert (float(second["low"]), float(second["high"])) == row.summaries["test/bleu"].interval
    assert (second["standing"], second["paired"], second["seeds"]) == ("alike", "true", "0 1 2")
    assert float(second["difference"]) == pytest.approx(-5 / 6)
    assert json.loads(second["settings"]) == {"method.prefix_length": 10}
    assert (second["scale"], second["direction"], second["stored"]) == ("0-100", "maximize", "100")
    assert second["runs"].count("/runs/") == 3


def test_what_is_not_known_is_empty_and_marked(compared: Compared) -> None:
    found = compared(MadeUp(), MadeUp(bleu=40, settings={"prefix_length": 20}))

    lines = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert (lines[2]["low"], lines[2]["p"], lines[2]["standing"]) == ("", "", "unknown")
    text = as_markdown(found, dict.fromkeys([("towns", "tiny", 1), ("towns", "tiny", 2)], "train"))
    assert "| **50.00** | 1.0000" not in text
    assert "| 40.00 ? |" in text
    assert "no confidence interval" in text


def test_a_setting_cannot_leave_its_cell(compared: Compared) -> None:
    hostile = {"init_text": "a | b\n# & <script> $x_1$ \\input{x} %"}
    found = compared(MadeUp(), MadeUp(settings=hostile))

    table = as_markdown(found, dict.fromkeys([("towns", "tiny", 1), ("towns", "tiny", 2)], "train"))
    latex = as_latex(found)

    (line,) = {
        line
        for line in table.splitlines()
        if "input" in line and line.startswith("|") and "±" not in line and "50.00" in line
    }
    assert r"a \| b # & \<script\> $x\_1$ \\input{x} %" in line
    rows = [line for line in latex.splitlines() if "init" in line]
    assert all(r"a | b \# \& <script> \$x\_1\$ \textbackslash{}input\{x\} \%" in row for row in rows)
    assert {row.count(" & ") for row in rows} <= {4, 8}


HOSTILE = "\x1b[31mred\x1b]0;x\x07\r\u202e\x9b"


def test_control_characters_reach_no_file_and_no_terminal(compared: Compared) -> None:
    found = compared(
        MadeUp(
            task=HOSTILE, backbone=HOSTILE, hypotheses=(HOSTILE, "a", "b"), more_metrics={f"test/ter/{HOSTILE}": 1.0}
        ),
        MadeUp(task=HOSTILE, backbone=HOSTILE, hypotheses=("c", "a", "b"), settings={"init_text": HOSTILE}),
    )
    found = Comparison(found.tables, (ExcludedRun(Path(HOSTILE), HOSTILE),))
    commands = dict.fromkeys([(HOSTILE, HOSTILE, 1), (HOSTILE, HOSTILE, 2)], f"train {HOSTILE}")
    terminal = io.StringIO()
    show_table(found.tables[0], Console(file=terminal, width=300))

    for text in (as_markdown(found, commands), as_latex(found), terminal.getvalue()):
        assert not set("\x1b\x07\r\u202e\x9b") & set(text)
        assert "x1b[31mred" in text.replace("\\[", "[")
    page = render_page(found, commands, num_examples=3)
    assert not set("\x1b\x07\u202e\x9b") & set(page.partition('id="library"')[0])
    assert "\\u001b" not in page.partition('id="library"')[0]


def test_the_bare_backbone_is_the_best_where_no_row_is_better(compared: Compared) -> None:
    rows = [MadeUp(seed=seed, bleu=4.0 + seed / 10, loss=2.0 + seed / 10) for seed in (0, 1, 2)]
    rows += [MadeUp(seed=seed, bleu=3.0 + seed / 10, loss=1.0 + seed, method="lora", settings={}) for seed in (0, 1, 2)]
    found = compared(*rows)

    table = found.tables[0]
    assert [row.verdicts["test/bleu"].standing for row in table.rows] == ["unknown", "unknown"]
    assert {row.verdicts["val/loss"].standing for row in table.rows} >= {"best"}
    text = as_markdown(found, {("towns", "tiny", 1): "a", ("towns", "tiny", 2): "b"})
    assert "|  | bare backbone |  | **5.00** | 3.0000 |" in text
    assert "**4.10**" not in text


def test_a_metric_of_another_scale_has_other_decimals(compared: Compared) -> None:
    share = {**INFOS, "test/bleu": type(BLEU)(scale="0-1", direction="maximize", version="1", library="x")}

    text = as_markdown(
        compared(MadeUp(bleu=0.5, infos=share, more_metrics={"test/bleu_before": 0.05})),
        {("towns", "tiny", 1): "train"},
    )

    assert "| **0.5000** |" in text
