"""The settings at the root of `conf/<verb>.yaml`, with types and ranges.

In: nothing. Out: one dataclass per verb, `<Verb>Settings`. Those of `export`, `import` and `push` are in
`bundle_settings.py`, those of `join`, `route` and `serve` in a file of each, and those of `compare`, `runs` and `sweep`
in `report_settings.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, MinLen

from ptl_prefix.artifacts.decoding import (
    LEAST_TEMPERATURE,
    LengthPenalty,
    MaxNewTokens,
    MinNewTokens,
    NgramSize,
    NumBeams,
    SamplingSeed,
    TopP,
)
from ptl_prefix.artifacts.remote.outputs_url import outputs_url_problem
from ptl_prefix.errors import ObjectStoreError, RunError

Routing = Literal["none", "ngrams", "hidden_states"]
"""What a bundle says of its task's texts, so that a server recognises them."""

AcceptedChange = Literal["data", "weights", "tokenizer", "code", "checkpoint"]
"""What may differ when a run is resumed."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The keys at the root of `conf/train.yaml`.

    Args:
        seed: Seed of initialisation, batch order and dropout.
        run_id: Name of the run and of its folder; by default the time and a random part.
        dry_run: Whether to print the config, parameters, steps and memory, and train nothing.
        resume: Run folder of a stopped or killed run to resume, or the address where it is mirrored; `None` starts a
            new run. No other settings than
            `resume_anyway`, `trainer.devices` and `trainer.max_steps` may be given with it, as the run has its config.
        resume_anyway: Inputs that may differ from those that the run was trained with when it is resumed: `data`,
            `weights`, `tokenizer` and `code`; `checkpoint` resumes from the newest whole checkpoint in place of a
            damaged `last.ckpt`. What differed is recorded.
        study: Name of the study that the run is a trial of; set by sweeps.
        trial: Number of the trial in its study; set by sweeps.
        routing: What the bundle says of the task's texts, so that a server recognises them: `ngrams` (hashed counts of
            training inputs and of 200 validation inputs), `hidden_states` (also the bare backbone's mean hidden
            states), or `none`, for private texts.
        outputs_url: Address in an object store below which the run is mirrored, at every validation and at its end:
            `s3://<bucket>/<path>`, `gs://<bucket>/<path>` or `file:///<path>`; `None` mirrors nothing.
    """

    seed: Annotated[int, Ge(0), Le(2**32 - 1)]
    run_id: str
    dry_run: bool
    resume: str | None
    study: str | None
    trial: Annotated[int, Ge(0)] | None
    # With defaults, as studies of earlier versions keep a `train.yaml` without these keys.
    resume_anyway: Sequence[AcceptedChange] | AcceptedChange = ()
    routing: Routing = "none"
    outputs_url: str | None = None

    def problems(self) -> list[str]:
        """Accepted changes without a run that is resumed, or a store that cannot be written."""
        problems = []
        if self.resume is None and self.resume_anyway:
            problems.append("`resume_anyway` is read with `resume` only, which is null; give resume=<run folder>, too.")
        if (problem := outputs_url_problem(self.outputs_url)) is not None:
            problems.append(problem)
        return problems


def _input_problems(source_file: str | None) -> list[str]:
    if source_file in (None, "-") or Path(str(source_file)).is_file():
        return []
    return [f"`input` must be a file or - for standard input, but there is no file at '{source_file}'."]


def _both_problems(bundle: str | None, run: str | None) -> list[str]:
    if bundle is None or run is None:
        return []
    return ["`run` and `bundle` must not both be given; a run has its own bundle."]


def run_problems(run: str | None) -> list[str]:
    """Why a setting is neither a run folder nor the address of a mirrored run; none for `None`."""
    if run is None:
        return []
    # Imported here: what reads mirrored runs is more than the help of all verbs takes.
    from ptl_prefix.artifacts.remote.open_run import open_run

    try:
        open_run(run)
    except (ObjectStoreError, RunError) as error:
        return [f"`run`: {error}"]
    return []


@dataclass(frozen=True, kw_only=True)
class DecodingChanges:
    """Changes to a bundle's own decoding.

    Args:
        max_new_tokens: Most tokens to write, the stop token included; `None` keeps the bundle's.
        min_new_tokens: Fewest tokens to write; `None` keeps the bundle's.
        num_beams: Number of beams; 1 is greedy decoding or sampling; `None` keeps the bundle's.
        length_penalty: Exponent of the length in a beam's score; `None` keeps the bundle's.
        no_repeat_ngram_size: Size of n-grams that may not occur twice; 0 allows all; `None` keeps the bundle's.
        do_sample: Whether to sample instead of taking the most likely token; `None` keeps the bundle's.
        temperature: Softmax temperature of sampling; `None` keeps the bundle's.
        top_p: Probability mass of nucleus sampling; `None` keeps the bundle's.
        seed: Seed of sampling; `None` keeps the bundle's.
    """

    max_new_tokens: MaxNewTokens | None
    min_new_tokens: MinNewTokens | None
    num_beams: NumBeams | None
    length_penalty: LengthPenalty | None
    no_repeat_ngram_size: NgramSize | None
    do_sample: bool | None
    temperature: Annotated[float, Ge(LEAST_TEMPERATURE)] | None
    top_p: TopP | None
    seed: SamplingSeed | None


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(DecodingChanges):
    """The keys at the root of `conf/generate.yaml`.

    Args:
        bundle: Bundle, run folder, or address on the hub or of a mirrored run; `None` is the first argument.
        run: The same, by the name that other verbs have for a run folder.
        input: File with one source per line; `-` is standard input.
        output: File for the generated texts; `None` prints them.
        dtype: Dtype of the backbone's weights and computations; `None` is that of the training.
        device: Device of the backbone; `auto` takes a GPU if there is one.
        batch_size: Number of sources decoded at once.
    """

    bundle: str | None
    run: str | None
    input: str | None
    output: str | None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None
    device: Literal["auto", "cpu", "cuda", "mps"]
    batch_size: Annotated[int, Ge(1)]

    def problems(self) -> list[str]:
        """Both `bundle` and `run`, or a file of sources that does not exist."""
        return [*_both_problems(self.bundle, self.run), *_input_problems(self.input)]


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(DecodingChanges):
    """The keys at the root of `conf/evaluate.yaml`.

    Args:
        run: Run folder, or address of a mirrored run, whose bundle and task are used.
        bundle: Bundle to evaluate, or its address on the hub, instead of `run`; needs `task=` outside of a run.
        split: Split of the task that is decoded.
        num_examples: Number of inputs, evenly spread over the split; `None` is all.
        metrics: Names of the metrics, as `ptl-prefix metrics` lists them; `None` is those of the task.
        bertscore_model: Folder with an encoder and its tokenizer, for the metric `bertscore`.
        resamples: Bootstrap resamples for 95% intervals, such as 1000; 0 computes no intervals.
        resample_seed: Seed of the bootstrap resamples.
        likelihood: Whether to also compute the references' loss, perplexity and bits per character.
        retention: Whether to also compute the loss on text that is not the task's.
        retention_file: File of that text, with paragraphs or one document on each line; `None` is the package's text.
        out: Output folder; `None` is `evaluation` in the run folder, beside the bundle, or in `outputs/`.
        batch_size: Number of sources decoded at once.
        dtype: Dtype of the backbone; `None` is that of the bundle's training, or that of the backbone's config.
        device: Device of the backbone; `auto` takes a GPU if there is one.
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
    retention: bool
    retention_file: str | None
    out: str | None
    batch_size: Annotated[int, Ge(1)]
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None
    device: Literal["auto", "cpu", "cuda", "mps"]

    def problems(self) -> list[str]:
        """A folder that is not a run folder, or both `run` and `bundle`."""
        return _both_problems(self.bundle, self.run) or run_problems(self.run)


@dataclass(frozen=True, kw_only=True)
class InspectSettings:
    """The keys at the root of `conf/inspect.yaml`.

    Args:
        bundle: Bundle, run folder or address on the hub; this or `run` must be given.
        run: The same, by the name that other verbs have for a run folder.
        input: File with one source per line; `-` is standard input.
        num_examples: Number of validation sources of the run that are read if no others are given.
        max_new_tokens: Most generated tokens that are read together with each source; 0 reads the sources alone.
        out: Output folder; `None` is `inspection` in the run folder, or beside a bundle outside of a run folder.
        layer: Layer whose nearest words are searched; `None` is the first, the middle and the last.
        top_k: Number of words shown for each virtual token.
        max_words: Number of vocabulary entries that are compared, those of the lowest ids.
        dead_below: Share of attention below which, in every head of every layer, a virtual token counts as dead.
        batch_size: Number of sources read at once.
        dtype: Dtype of the backbone's weights and computations; `None` is that of the training.
        device: Device of the backbone; `auto` takes a GPU if there is one.
    """

    bundle: str | None
    run: str | None
    input: str | None
    num_examples: Annotated[int, Ge(1)]
    max_new_tokens: Annotated[int, Ge(0)]
    out: str | None
    layer: Annotated[int, Ge(0)] | None
    top_k: Annotated[int, Ge(1)]
    max_words: Annotated[int, Ge(2)]
    dead_below: Annotated[float, Ge(0), Le(1)]
    batch_size: Annotated[int, Ge(1)]
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None
    device: Literal["auto", "cpu", "cuda", "mps"]

    def problems(self) -> list[str]:
        """No bundle, both `bundle` and `run`, or a file of sources that does not exist."""
        missing = ["`bundle` must be given."] if self.bundle is None and self.run is None else []
        return [*missing, *_both_problems(self.bundle, self.run), *_input_problems(self.input)]


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """The keys at the root of `conf/score.yaml`.

    Args:
        metrics: Names of the metrics, as `ptl-prefix metrics` lists them.
        format: Format of the output; `json` is one object `{metric: value}`.
        resamples: Bootstrap resamples for 95% intervals, such as 1000; 0 computes no intervals.
        seed: Seed of the bootstrap resamples.
        bertscore_model: Folder with an encoder and its tokenizer, for the metric `bertscore`.
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
        yes: Whether `sync` sends runs; `false` only lists what it would send.
        out: File that `dashboard` writes; `None` is `outputs/wandb-workspace.json`.
        project: W&B project of `dashboard`; `None` is that of the runs.
        entity: W&B user or team of `dashboard`; `None` is that of the runs, else that of the API key.
        metric: Metric by which `dashboard` judges settings, such as `test/bleu`; `None` is the runs' objective.
    """

    yes: bool
    out: str | None
    project: Annotated[str, MinLen(1)] | None
    entity: Annotated[str, MinLen(1)] | None
    metric: Annotated[str, MinLen(1)] | None
