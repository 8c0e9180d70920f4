"""What each verb that makes, reads or sends something has at the root of its YAML, with types and ranges.

In: nothing. Out: a dataclass a verb, `<Verb>Settings` for `conf/<verb>.yaml`. Those of the verbs that read records are
in `report_settings.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from ptl_prefix.artifacts.run_folder import RunFolder
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
        bertscore_model: A folder with an encoder, for `bertscore`.
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
    bertscore_model: str | None
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
class WandbSettings:
    """The keys at the root of `conf/wandb.yaml`.

    Args:
        yes: Whether `sync` sends; otherwise it shows what it would send.
        out: The file that `dashboard` writes; `None`: `outputs/wandb-workspace.json`.
        project: W&B's project that `dashboard` is for; `None`: that of the runs.
        entity: W&B's user or team that it belongs to; `None`: that of the runs, else the key's own.
        metric: What it judges settings by, such as test/bleu; `None`: what the runs were measured by.
    """

    yes: bool
    out: str | None
    project: Annotated[str, MinLen(1)] | None
    entity: Annotated[str, MinLen(1)] | None
    metric: Annotated[str, MinLen(1)] | None
