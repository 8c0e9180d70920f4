"""The parts of `make bench`: which benchmarks are run, with which arguments, and how long each takes.

In: nothing. Out: `PARTS`, in the order of the page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import run_sections, training_sections
from benchmarks.section import Report, Section

_PATIENCE = 2.0
"""A part is ended when it takes this many times as long as estimated."""


@dataclass(frozen=True)
class Run:
    """One way to run a part.

    Args:
        words: Arguments; `{data}` stands for the folder of real data.
        minutes: Estimated minutes on two cores.
    """

    words: str
    minutes: float

    @property
    def needs_data(self) -> bool:
        """Whether the arguments name the folder of real data."""
        return "{data}" in self.words

    @property
    def limit_s(self) -> float:
        """Seconds after which the part is ended."""
        return _PATIENCE * 60 * self.minutes


@dataclass(frozen=True, kw_only=True)
class Part:
    """A benchmark, as `make bench` runs it.

    Args:
        module: Module in `benchmarks/`; also the name of its result.
        title: Heading of its section.
        about: What the table shows, in one or two sentences.
        whole: The whole run.
        quick: The quick run; `None` leaves the part out.
        section: What the page shows of a report.
        flag: The benchmark's argument for the path of its report.
    """

    module: str
    title: str
    about: str
    whole: Run
    quick: Run | None = None
    section: Callable[[Report], Section]
    flag: str = "--json"

    def run(self, *, quick: bool) -> Run | None:
        """The whole or the quick run."""
        return self.quick if quick else self.whole


def names(parts: Sequence[Part]) -> str:
    """The parts' names in a sentence."""
    return ", ".join(part.module for part in parts)


PARTS = (
    Part(
        module="step_time",
        title="One training step, beside PEFT",
        about="Forward, backward and AdamW on one batch of random ids; ratios are medians over rounds, with quartiles.",
        whole=Run("--shape gpt2 small_llama --steps 7", 4.5),
        quick=Run("--shape tiny --steps 5", 0.7),
        section=training_sections.step_time,
    ),
    Part(
        module="peft_trainer",
        title="An epoch of E2E, beside PEFT in the Hugging Face Trainer",
        about="Loading, padding and the training loop included; same tokens, same batch size.",
        whole=Run("--data {data}/data --inputs 20 --rounds 3 --limit-s 420", 7.5),
        quick=Run("--data {data}/data --inputs 4 --rounds 1 --shape tiny --only prefix", 0.5),
        section=training_sections.peft_trainer,
    ),
    Part(
        module="prefix_vs_peft",
        title="Validation loss, beside PEFT and in upper layers",
        about="Nats per target token after the same steps on the same batches; nothing is tuned.",
        whole=Run("--steps 100 --validation-rows 200 --only mlp peft_projection none peft upper_half upper_quarter", 4),
        section=training_sections.prefix_vs_peft,
    ),
    Part(
        module="frozen_layers",
        title="A prefix in upper layers, with the layers below computed once",
        about="`data.cache_hidden_states`: steps that start at the lowest layer with a prefix, and others. What a "
        "prefix in fewer layers learns is in the table above.",
        whole=Run("--shape gpt2 small_llama --steps 15", 3),
        quick=Run("--shape tiny --steps 8 --rows 160", 0.4),
        section=training_sections.frozen_layers,
    ),
    Part(
        module="row_layouts",
        title="Packed rows, and targets that share their prompt",
        about="Real data. Positions that are computed over those that are needed, and time per target token.",
        whole=Run("--data {data}/data --limit-s 100", 4.5),
        quick=Run("--data {data}/data --tasks e2e --rounds 1 --steps 8 --validation-examples 30", 0.8),
        section=training_sections.row_layouts,
        flag="--out",
    ),
    Part(
        module="head_memory",
        title="Logits in chunks, where the vocabulary is large",
        about="Peak memory and time of a training step and of a validation batch, with the loss of some positions at a "
        "time and of all at once.",
        whole=Run("--limit-s 70", 3),
        quick=Run("--shape tiny --batch-size 4 --validation-rows 16 --rounds 2", 0.8),
        section=training_sections.head_memory,
    ),
    Part(
        module="compiled_layers",
        title="Compiled layers",
        about="`torch.compile` of the backbone's layers with a prefix, and what is left of its gain after the time of "
        "compiling.",
        whole=Run("--limit-s 60", 2),
        section=training_sections.compiled_layers,
    ),
    Part(
        module="packed_sweep",
        title="Trials in packs",
        about="A study with `hydra.sweeper.pack`, and the same one trial after another: seconds of the whole command, "
        "and resident memory.",
        whole=Run("--trials 8 --steps 20 --batch-size 4 --rounds 3 --limit-s 260", 5),
        section=run_sections.packed_sweep,
        flag="--out",
    ),
    Part(
        module="rung_ranking",
        title="Ranking by a subset of the validation split",
        about="`training.validation_examples`: how the order of runs by a nested subset agrees with that by the whole "
        "split. 12 prefixes on E2E.",
        whole=Run("--data {data}/data", 4.5),
        section=run_sections.rung_ranking,
        flag="--out",
    ),
    Part(
        module="cold_start",
        title="A new command, up to its first step",
        about="CPU seconds of a new process from its start to the end of its first optimizer step, imports included.",
        whole=Run("--rounds 3", 2),
        quick=Run("--rounds 1", 0.8),
        section=run_sections.cold_start,
        flag="--out",
    ),
    Part(
        module="sweep_start",
        title="Starting the trials of a study",
        about="Seconds of a study of short trainings, over those of a command for each.",
        whole=Run("--trials 4", 1.5),
        section=run_sections.sweep_start,
        flag="--out",
    ),
    Part(
        module="decode_time",
        title="Decoding with a prefix",
        about="Seconds to generate the new tokens of all rows, over those of the bare backbone.",
        whole=Run("--rounds 3", 2),
        section=run_sections.decode_time,
    ),
    Part(
        module="decode_test_split",
        title="Decoding E2E's test split",
        about="Greedy decoding in which rows that ended leave the batch, beside waiting for the longest row.",
        whole=Run("--data {data}/data --limit-s 80", 2.5),
        quick=Run("--data {data}/data --inputs 64 --steps 60 --rounds 1", 0.6),
        section=run_sections.decode_test_split,
    ),
    Part(
        module="serving",
        title="Serving many prefixes from one backbone",
        about="Tokens per second of one way of serving over another's, within each round.",
        whole=Run("--rounds 2", 4),
        section=run_sections.serving,
    ),
    Part(
        module="cost_scale",
        title="Cost against scale",
        about="Training steps, and a server's store, at growing sizes, beside the straight line of theory.",
        whole=Run(
            "--axes prefix_length batch text layers backbone trials bundles_first_scan bundles_a_batch --layers 4 "
            "--rounds 3 --limit-s 30",
            4,
        ),
        section=run_sections.cost_scale,
        flag="--out",
    ),
)
"""In the order of the page."""
