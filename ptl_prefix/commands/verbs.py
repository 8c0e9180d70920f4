"""The verbs that read a config: what each is for, and the settings that belong to the verb itself.

In: nothing. Out: `VERBS`, read by the command line, its help, its completion and the check of a composed config. The
groups of a verb's config are listed in `conf/<verb>.yaml`; what remains at that file's root is described here, with
its types and ranges. The body of a verb is `ptl_prefix/commands/<verb>.py`, imported when it runs: this file costs
nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen

from ptl_prefix.artifacts.run_folder import RunFolder
from ptl_prefix.commands.report_settings import CompareSettings, RunsSettings, SweepActionSettings
from ptl_prefix.errors import RunError


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The keys at the root of `conf/train.yaml`.

    Args:
        seed: Of initialisation, batch order and dropout.
        run_id: Names the run's folder.
        dry_run: Show what would run, then stop.
        resume: A run folder to go on with.
        study: The sweep that the run is a trial of.
        trial: Its number there.
    """

    seed: Annotated[int, Ge(0), Le(2**32 - 1)]
    run_id: str
    dry_run: bool
    resume: str | None
    study: str | None
    trial: Annotated[int, Ge(0)] | None


def _input_problems(source_file: str | None) -> list[str]:
    if source_file in (None, "-") or Path(str(source_file)).is_file():
        return []
    return [f"`input` must be a file or - for standard input, but there is no file at '{source_file}'."]


def _run_problems(run: str | None) -> list[str]:
    if run is None:
        return []
    try:
        RunFolder.open(run)
    except RunError as error:
        return [f"`run`: {error}"]
    return []


@dataclass(frozen=True, kw_only=True)
class DecodingChanges:
    """Changes to a bundle's own decoding; `None` leaves what it has. See `Decoding`."""

    max_new_tokens: Annotated[int, Ge(1)] | None
    min_new_tokens: Annotated[int, Ge(0)] | None
    num_beams: Annotated[int, Ge(1)] | None
    length_penalty: float | None
    no_repeat_ngram_size: Annotated[int, Ge(0)] | None
    do_sample: bool | None
    temperature: Annotated[float, Gt(0)] | None
    top_p: Annotated[float, Gt(0), Le(1)] | None
    seed: Annotated[int, Ge(0)] | None


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(DecodingChanges):
    """The keys at the root of `conf/generate.yaml`.

    Args:
        input: A file with one source per line; `-` is standard input.
        output: A file for the texts; `None` prints them.
        backbone_path: Where the backbone is; `None`: where it was when the bundle was made.
        dtype: What the backbone computes in; `None`: as when the bundle was made.
        device: Where the backbone is put.
        batch_size: Sources decoded together.
    """

    input: str | None
    output: str | None
    backbone_path: str | None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None
    device: Literal["auto", "cpu", "cuda", "mps"]
    batch_size: Annotated[int, Ge(1)]

    def problems(self) -> list[str]:
        """A file of sources that is not there."""
        return _input_problems(self.input)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(DecodingChanges):
    """The keys at the root of `conf/evaluate.yaml`.

    Args:
        run: A run folder.
        bundle: A bundle, in its place.
        split: What is decoded.
        num_examples: Inputs, evenly spread over the split; `None` is all.
        metrics: Names of metrics; `None`: those of the task.
        resamples: Bootstrap draws for the intervals; 0 gives none.
        resample_seed: Of those draws.
        likelihood: Whether the references' likelihood is measured, too.
        out: The folder to write to.
        batch_size: Sources decoded together.
        backbone_path: Where the bundle's backbone is; `None`: where it was when the bundle was made.
        dtype: What the backbone computes in; `None`: as when the bundle was made, or as the backbone's config says.
        device: Where the backbone is put.
    """

    run: str | None
    bundle: str | None
    split: Literal["test", "validation", "train"]
    num_examples: Annotated[int, Ge(1)] | None
    metrics: Sequence[str] | None
    resamples: Annotated[int, Ge(0)]
    resample_seed: Annotated[int, Ge(0)]
    likelihood: bool
    out: str | None
    batch_size: Annotated[int, Ge(1)]
    backbone_path: str | None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None
    device: Literal["auto", "cpu", "cuda", "mps"]

    def problems(self) -> list[str]:
        """A run folder that is none, and both of what there may be one of."""
        if self.run is not None and self.bundle is not None:
            return ["`run` and `bundle` must not both be given; a run has its own bundle."]
        return _run_problems(self.run)


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """The keys at the root of `conf/export.yaml`.

    Args:
        run: The run folder to export from.
        checkpoint: `best`, `last`, or a checkpoint file.
        out: The folder to write the bundle to.
        merge: Whether to write a model with the method merged into its weights, instead of a bundle.
    """

    run: str
    checkpoint: str
    out: str
    merge: bool

    def problems(self) -> list[str]:
        """A run folder that is none."""
        return _run_problems(self.run)


@dataclass(frozen=True, kw_only=True)
class InspectSettings:
    """The keys at the root of `conf/inspect.yaml`.

    Args:
        bundle: A bundle, or a run's folder, which stands for its bundle.
        input: A file with one source per line; `-` is standard input.
        num_examples: Sources of the run's validation split, where no others are given.
        max_new_tokens: How much of what the bundle writes after each source is read, too; 0: sources alone.
        out: The folder to write to; `None`: `inspection` in the run's folder, or beside a bundle that lies alone.
        layer: The layer whose nearest words are searched; `None`: the first, the middle and the last.
        top_k: Words shown for each virtual token.
        max_words: Words of the vocabulary that are compared, those of the lowest ids.
        dead_below: A virtual token with less than this share of attention in every head is dead.
        batch_size: Sources read together.
        backbone_path: Where the backbone is; `None`: where it was when the bundle was made.
        dtype: What the backbone computes in; `None`: as when the bundle was made.
        device: Where the backbone is put.
    """

    bundle: str
    input: str | None
    num_examples: Annotated[int, Ge(1)]
    max_new_tokens: Annotated[int, Ge(0)]
    out: str | None
    layer: Annotated[int, Ge(0)] | None
    top_k: Annotated[int, Ge(1)]
    max_words: Annotated[int, Ge(2)]
    dead_below: Annotated[float, Ge(0), Le(1)]
    batch_size: Annotated[int, Ge(1)]
    backbone_path: str | None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None
    device: Literal["auto", "cpu", "cuda", "mps"]

    def problems(self) -> list[str]:
        """A file of sources that is not there."""
        return _input_problems(self.input)


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """The keys at the root of `conf/score.yaml`.

    Args:
        metrics: Their names.
        format: How the numbers are printed.
        resamples: Draws for 95% bootstrap intervals; 0: none.
        seed: Of those draws.
        bertscore_model: A folder with an encoder, for `bertscore`.
    """

    metrics: Annotated[Sequence[str], MinLen(1)]
    format: Literal["table", "json", "csv"]
    resamples: Annotated[int, Ge(0)]
    seed: Annotated[int, Ge(0)]
    bertscore_model: str | None


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of the command line.

    Args:
        name: What the user types; also the name of its config and of its module.
        summary: One line for `--help`.
        settings: The keys at the root of its config, as a dataclass.
        arguments: How its arguments are written in `--help`; empty: it takes none.
        examples: Command lines that work, each with what it does.
        folder_key: A setting that names an existing run folder to work in; given alone, as that folder has a config.
    """

    name: str
    summary: str
    settings: type[Any]
    examples: tuple[tuple[str, str], ...]
    arguments: str = ""
    folder_key: str | None = None

    @property
    def module(self) -> str:
        """Where the verb's `run(config, words, run_folder)` is."""
        return f"ptl_prefix.commands.{self.name}"


VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            name="train",
            summary="Train a method on a frozen backbone and evaluate it.",
            settings=TrainSettings,
            folder_key="resume",
            examples=(
                ("ptl-prefix train", "the embedded backbone on the built-in task"),
                ("ptl-prefix train dry_run=true", "the resolved config, parameters, steps and memory; trains nothing"),
                ("ptl-prefix train method.prefix_length=20 trainer.max_steps=1000", "settings of two groups"),
                ("ptl-prefix train backbone=local backbone.path=models/mine", "a backbone from a folder"),
                ("ptl-prefix train -m optimizer.lr=1e-3,3e-3 seed=0,1,2", "six runs, one after another"),
                ("ptl-prefix train experiment=e2e_gpt2_medium_prefix", "a published run, see ptl-prefix experiments"),
                ("ptl-prefix train resume=<run folder>", "go on with a run that was stopped"),
                ("ptl-prefix train --cfg job", "print the composed config and stop"),
            ),
        ),
        Verb(
            name="generate",
            summary="Write text with a bundle.",
            settings=GenerateSettings,
            arguments="[BUNDLE] [SOURCE]...",
            examples=(("ptl-prefix generate <run folder>/bundle 'name : The Eagle'", "text for one source"),),
        ),
        Verb(
            name="evaluate",
            summary="Decode a split and score it, by the measures that its papers use.",
            settings=EvaluateSettings,
            examples=(
                ("ptl-prefix evaluate run=<run folder>", "the test split, decoded as the run was configured"),
                ("ptl-prefix evaluate run=<run folder> num_beams=5 resamples=1000", "by beams, with 95% intervals"),
                ("ptl-prefix evaluate bundle=<bundle> task=e2e_nlg task.data_dir=<folder>", "a bundle on a task"),
                ("ptl-prefix evaluate backbone=gpt2 task=table_to_text", "a bare backbone"),
            ),
        ),
        Verb(
            name="export",
            summary="Write a bundle from a run's checkpoint.",
            settings=ExportSettings,
            examples=(
                ("ptl-prefix export run=<run folder> checkpoint=last out=<folder>", "not the best, but the last"),
                ("ptl-prefix export run=<run folder> merge=true out=<folder>", "LoRA and IA3: a plain model instead"),
            ),
        ),
        Verb(
            name="inspect",
            summary="Show what a trained prefix does, as tables and a picture.",
            settings=InspectSettings,
            arguments="[SOURCE]...",
            examples=(
                ("ptl-prefix inspect bundle=<run folder>", "over sources of the run's validation split"),
                ("ptl-prefix inspect bundle=<run folder> 'name : The Eagle'", "over one source"),
                ("ptl-prefix inspect bundle=<bundle> input=sources.txt layer=3 top_k=10", "over those of a file"),
            ),
        ),
        Verb(
            name="score",
            summary="Measure a file of predictions, of any system's.",
            settings=ScoreSettings,
            arguments="FILE",
            examples=(
                ("ptl-prefix score predictions.jsonl", "the metrics of the E2E challenge, as a table"),
                ("ptl-prefix score predictions.jsonl metrics=[bleu,nist] format=json", "one object {metric: value}"),
                ("ptl-prefix score predictions.jsonl metrics=[rouge1,rouge2,rougeL] resamples=1000", "with intervals"),
            ),
        ),
        Verb(
            name="sweep",
            summary="Search settings: plan, run, watch and go on with a study.",
            settings=SweepActionSettings,
            arguments="ACTION STUDY",
            examples=(
                ("ptl-prefix sweep plan prefix_length", "what a question of sweeps/ will take, measured"),
                ("ptl-prefix sweep run prefix_length hydra.sweeper.n_trials=8", "ask it"),
                ("ptl-prefix sweep status prefix_length watch=true", "how far it is"),
                ("ptl-prefix sweep stop prefix_length now=true", "stop it, saved"),
                ("ptl-prefix sweep resume prefix_length", "go on with it, also after a crash"),
                (
                    "ptl-prefix sweep worker outputs/sweeps/prefix_length",
                    "join it, from any machine that sees the folder",
                ),
                ("ptl-prefix sweep export prefix_length slurm", "a job array of workers"),
            ),
        ),
        Verb(
            name="runs",
            summary="List runs, with what has become of them.",
            settings=RunsSettings,
            arguments="[FOLDER]...",
            examples=(
                ("ptl-prefix runs", "all runs in outputs/"),
                ("ptl-prefix runs status=died", "those that ended without a record; resume= goes on with them"),
                (
                    "ptl-prefix runs task_name=e2e_nlg sort=metric format=json",
                    "those of a task, the best first, as JSON",
                ),
            ),
        ),
        Verb(
            name="compare",
            summary="Compare runs over seeds, as tables and one page.",
            settings=CompareSettings,
            arguments="RUN...",
            examples=(
                ("ptl-prefix compare outputs/e2e_nlg", "every finished run below a folder"),
                ("ptl-prefix compare 'outputs/*/gpt2_medium/lora/*' outputs/e2e_nlg/gpt2_medium/prefix_tuning", "some"),
                ("ptl-prefix compare outputs metric=test/bleu out=comparisons/e2e", "by BLEU, into a folder"),
            ),
        ),
    )
}
