"""What an evaluation says of itself: `metrics.json`, beside the `predictions.jsonl` that it speaks of.

In: an `EvaluationRecord` when all is measured. Out: the same record. It is written once, by an atomic rename, and never
changed: its folder is named by all that the outputs depend on, so that other outputs lie elsewhere.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from pydantic import ConfigDict

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.document_file import DocumentFile
from ptl_prefix.artifacts.json_document import STRICT
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.errors import RunError

SCHEMA_VERSION = 1
RECORD_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.jsonl"
UNFINISHED_FILE = "predictions.unfinished.jsonl"

Count = Annotated[int, Ge(0)]
Amount = Annotated[float, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class EvaluationKey:
    """All that the outputs of an evaluation depend on.

    Args:
        method: Kind of the method; `none` for the bare backbone.
        adaptation: SHA-256 of the bundle's tensors; `None` for the bare backbone.
        backbone: Name of the backbone.
        backbone_weights: SHA-256 of its weights.
        dtype: Data type of its computations, and of its matrices where they are quantised.
        task: Name of the task.
        task_version: Version of the task.
        data: SHA-256 of the split's data.
        split: Name of the split.
        num_examples: Number of inputs, evenly spread over the split.
        decoding: Settings of text generation.
        over_labels: Whether the most likely label was taken instead of generating text.
    """

    method: str
    adaptation: str | None
    backbone: str
    backbone_weights: str
    dtype: str
    task: str
    task_version: str
    data: str
    split: str
    num_examples: Count
    decoding: Decoding
    over_labels: bool

    @property
    def folder_name(self) -> str:
        """The split, and a hash of the rest."""
        content = json.dumps(asdict(self), sort_keys=True).encode()
        return f"{self.split}-{hashlib.sha256(content).hexdigest()[:10]}"


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """One evaluation, in full.

    Args:
        schema_version: Version of this file format.
        question: Everything that the outputs depend on; the folder is named after its hash.
        num_in_split: Number of inputs in the whole split.
        metrics: Metric values by `split/name`; a metric that was not computed is absent, never NaN.
        intervals: 95% bootstrap intervals by the same key; empty if `resamples` was 0.
        metric_info: Scale, direction and version of each metric, by the same key.
        missing: Skipped metrics by name, each with the reason.
        decode_s: Seconds of decoding; outputs that were already there count as 0.
        environment: Python, platform, processor, number of cores, devices, package version, library versions and the
            git commit of the checkout.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    schema_version: int = SCHEMA_VERSION
    question: EvaluationKey
    num_in_split: Count
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    metric_info: dict[str, MetricInfo]
    missing: dict[str, str]
    decode_s: Amount
    environment: dict[str, Any]


_FILE = DocumentFile(
    kind=EvaluationRecord,
    version=SCHEMA_VERSION,
    max_bytes=16 * 2**20,
    name="An evaluation's record",
    error=RunError,
    when_unfit="leave out what was not computed.",
    when_unread="remove its folder, and evaluate again.",
)
write_evaluation_record, read_evaluation_record = _FILE.write, _FILE.read
