"""Sentences of published papers, and whether the study's rows carry them.

In: the comparison of a part. Out: for each sentence about it a `Verdict`: held, not held, or not decided at this size,
with the difference and its interval. Of the rows that a sentence speaks of, the best one speaks for them; p-values are
corrected by Holm's method over the sentences of a part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ptl_prefix.reporting.advice.paired_tests import PairedTest, correct, mean_of, paired_test
from ptl_prefix.reporting.comparison_record import RowRecord, TableRecord

Answer = Literal["held", "not held", "not decided at this size"]


@dataclass(frozen=True)
class Rows:
    """Some rows of a table.

    Args:
        method: Name of their method.
        config: Values of settings, by dotted key; a row must have all of them.
    """

    method: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def best(self, table: TableRecord, metric: str) -> RowRecord | None:
        """The best of the rows; `None` if there is none with the metric."""
        found = [
            row
            for row in table.rows
            if row.method == self.method
            and metric in row.summaries
            and all(row.config.get(key) == value for key, value in self.config.items())
        ]
        direction = table.metrics[metric].direction if metric in table.metrics else "minimize"
        return min(found, key=lambda row: mean_of(row, metric, direction), default=None)


@dataclass(frozen=True)
class Claim:
    """A sentence that says that some rows are better than others.

    Args:
        sentence: What is claimed, in our words.
        source: Where it is claimed.
        part: Part of the study that can say something about it.
        metric: Metric that it is judged by.
        better: The rows that are said to be better.
        than: The rows that they are compared with.
    """

    sentence: str
    source: str
    part: str
    metric: str
    better: Rows
    than: Rows


@dataclass(frozen=True)
class Verdict:
    """What the study says about a claim.

    Args:
        claim: The claim.
        answer: Whether it held.
        numbers: The difference, its interval, p-value and seeds; or why there is none.
        rows: The numbers of the rows that were compared.
    """

    claim: Claim
    answer: Answer
    numbers: str
    rows: tuple[int, ...] = ()


def verdicts(claims: Sequence[Claim], table: TableRecord) -> list[Verdict]:
    """Judge the claims about one table."""
    tests: dict[int, PairedTest] = {}
    for index, claim in enumerate(claims):
        mine, other = claim.better.best(table, claim.metric), claim.than.best(table, claim.metric)
        if mine is not None and other is not None:
            tests[index] = paired_test(mine, other, claim.metric, table.metrics[claim.metric])
    corrected = dict(zip(tests, correct(list(tests.values())), strict=True))
    return [_verdict(claim, corrected.get(index)) for index, claim in enumerate(claims)]


def _verdict(claim: Claim, test: PairedTest | None) -> Verdict:
    if test is None or test.other is None:
        return Verdict(claim, "not decided at this size", "no such rows")
    answers: dict[str, Answer] = {"better": "held", "worse": "not held"}
    answer = answers.get(test.outcome, "not decided at this size")
    return Verdict(claim, answer, test.numbers, (test.row.number, test.other.number))


_LOSS = "val/loss"
_BLEU = "test/bleu"
_PREFIX = Rows("prefix_tuning")
_LI = "Li & Liang (2021)"
_AT_ONE_RATE = {"optimizer.lr": 5e-5}

CLAIMS: tuple[Claim, ...] = (
    Claim("10 positions are better than one.", f"{_LI}, figure 4", "length", _LOSS,
          Rows("prefix_tuning", {"method.prefix_length": 10}), Rows("prefix_tuning", {"method.prefix_length": 1})),
    Claim("For table-to-text, 10 positions are better than 200.", f"{_LI}, section 7.2", "length", _LOSS,
          Rows("prefix_tuning", {"method.prefix_length": 10}), Rows("prefix_tuning", {"method.prefix_length": 200})),
    Claim("The MLP is better than training the table directly.", f"{_LI}, section 4.3", "reparam", _LOSS,
          Rows("prefix_tuning", {"method.reparam": "mlp"}), Rows("prefix_tuning", {"method.reparam": "none"})),
    Claim("Keys and values in every layer are better than embeddings alone.", f"{_LI}, section 7.2", "place", _LOSS,
          Rows("prefix_tuning", {"method.reparam": "mlp"}), Rows("prefix_tuning", {"method.reparam": "embedding"})),
    Claim("A prefix is better than an infix.", f"{_LI}, section 7.3", "place", _LOSS,
          Rows("prefix_tuning", {"method.reparam": "mlp", "method.position_law": None, "method.layers": None}),
          Rows("prefix_tuning", {"method.position_law": "infix"})),
    Claim("With 50 examples, a start from words is better than a random one.", f"{_LI}, section 7.4", "start", _LOSS,
          Rows("prefix_tuning", {"method.init": "text", "task.num_train_examples": 50}),
          Rows("prefix_tuning", {"method.init": "random", "task.num_train_examples": 50})),
    Claim("Values of zero are a better start than random ones.", "PEFT's method comparison", "start", _LOSS,
          Rows("prefix_tuning", {"method.init": "zero_values", "task.num_train_examples": 500}),
          Rows("prefix_tuning", {"method.init": "random", "method.reparam": "none", "task.num_train_examples": 500})),
    Claim("At one learning rate of 5e-5 for all, LoRA is better than a prefix.", "PEFT-Bench", "one_rate", _LOSS,
          Rows("lora", _AT_ONE_RATE), Rows("prefix_tuning", _AT_ONE_RATE)),
    Claim("LoRA is better than a prefix, each at the best of its own rates.", "PEFT-Bench, asked again", "one_rate",
          _LOSS, Rows("lora"), _PREFIX),
    *(
        Claim("A table that starts from an instruction is better than a random MLP.", "an earlier trial of ours", part,
              _LOSS, Rows("prefix_tuning", {"method.init": "text", "method.reparam": "none"}),
              Rows("prefix_tuning", {"method.init": "random", "method.reparam": "mlp"}))
        for part in ("start_e2e", "start_webnlg", "start_banking77")
    ),
    *(
        claim
        for part in ("small_e2e", "smollm2_e2e")
        for claim in (
            Claim("LoRA is better than a prefix.", "Hu et al. (2022), table 3", part, _BLEU, Rows("lora"), _PREFIX),
            Claim("A prefix is better than full fine-tuning.", f"{_LI}, table 2", part, _BLEU, _PREFIX,
                  Rows("full_finetuning")),
            Claim("A prefix is better than a prompt.", "He et al. (2022), XSum", part, _BLEU, _PREFIX,
                  Rows("prompt_tuning")),
            Claim("Prefix-Tuning+ is better than a prefix.", "Wang et al. (2025)", part, _BLEU, Rows("prefix_plus"),
                  _PREFIX),
        )
    ),
)  # fmt: skip
"""The sentences that the study asks about."""

NOT_TESTABLE = (
    (
        "Prompt tuning equals full fine-tuning.",
        "Lester et al. (2021)",
        "near 11B parameters; the larger backbone has 135M",
    ),
    (
        "200 positions are best for summarisation.",
        "Li & Liang (2021), section 7.2",
        "30 epochs of XSum with BART-large",
    ),
    ("LoRA reaches 70.4 BLEU on E2E, a prefix 69.7.", "Hu et al. (2022), table 3", "GPT-2 medium, five epochs"),
    (
        "A prefix trails LoRA by 34 points.",
        "PEFT-Bench (arXiv 2511.21285)",
        "27 data sets on Llama-3-8B; `one_rate` asks why",
    ),
)
"""Sentences that these backbones and sizes say nothing about: sentence, source, what it would take."""
