"""The settings at the root of `conf/examine.yaml`, with types and ranges."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from ptl_prefix.artifacts.decoding import MaxNewTokens


@dataclass(frozen=True, kw_only=True)
class ExamineSettings:
    """The keys at the root of `conf/examine.yaml`.

    Args:
        document: Text file; or the name of an article that the file of questions holds, in the layout of QuALITY.
        questions: File of questions, none of which may have been trained on.
        lengths: Numbers of tokens of the document's parts, and of rows of attention matching; `None` is the numbers of
            rows of the bundles, or 64 and 256 without bundles.
        foreign: File with one foreign text per line, or `.jsonl` file of questions about another document, which a
            router should refuse; `None` measures no gate.
        wrong_refusals: Rate at which that router may refuse texts of the bundle.
        cost_rounds: Rounds in which times are measured, all conditions in turn; 0 measures none.
        retention: Whether to also compute the loss on text that is not the document's.
        retention_file: File of that text, with paragraphs or one document on each line; `None` is the package's text.
        resamples: Bootstrap resamples for 95% intervals over the questions.
        resample_seed: Seed of the bootstrap resamples.
        out: Output folder; `None` is `examination` in the first bundle's run, beside the bundle, or in `outputs/`.
        max_new_tokens: Most tokens of a generated answer.
        batch_size: Number of answers computed at once.
        dtype: Dtype of the backbone; `None` is that of the bundles' training, or that of the backbone's config.
        device: Device of the backbone; `auto` takes a GPU if there is one.
    """

    document: str
    questions: str
    lengths: Sequence[Annotated[int, Ge(1)]] | None
    foreign: str | None
    wrong_refusals: Annotated[float, Gt(0), Lt(1)]
    cost_rounds: Annotated[int, Ge(0)]
    retention: bool
    retention_file: str | None
    resamples: Annotated[int, Ge(1)]
    resample_seed: Annotated[int, Ge(0)]
    out: str | None
    max_new_tokens: MaxNewTokens
    batch_size: Annotated[int, Ge(1)]
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None
    device: Literal["auto", "cpu", "cuda", "mps"]

    def problems(self) -> list[str]:
        """Files that do not exist."""
        files = {"questions": self.questions, "foreign": self.foreign}
        return [
            f"`{key}` must be a file, but '{path}' is not one."
            for key, path in files.items()
            if path is not None and not Path(path).is_file()
        ]
