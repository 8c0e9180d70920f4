"""What an evaluation says of itself: `metrics.json`, beside the `predictions.jsonl` that it speaks of.

In: an `EvaluationRecord` when all is measured. Out: the same record. It is written once, by an atomic rename, and never
changed: its folder is named by all that the outputs depend on, so that other outputs lie elsewhere.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from pydantic import ConfigDict, Field

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
        method: The method's kind; `none` for the bare backbone.
        adaptation: Hash of the bundle's tensors; `None` for the bare backbone.
        backbone: The backbone's name.
        backbone_weights: Fingerprint of its weights.
        dtype: What it computed in, and in what its matrices were held where that was something else.
        task: The task's name.
        task_version: Its version.
        data: Fingerprint of the split's data.
        split: Which split.
        num_examples: How many of its inputs, evenly spread over it.
        decoding: How text was decoded.
        over_labels: Whether the most likely label was taken, in place of decoding.
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
        schema_version: Of this record's shape.
        key: Everything that the outputs depend on; the file calls it `question`.
        num_in_split: Inputs in the whole split.
        metrics: Values by `split/name`. One that was not computed is absent: there is no NaN.
        intervals: 95% bootstrap intervals over test items, by the same key; empty where none were asked for.
        metric_info: What the values mean, by the same key.
        skipped: Reason for each metric that was not computed; the file calls it `missing`.
        decode_s: Seconds of decoding; of what was there already, none.
        environment: See `fingerprint.environment`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    schema_version: int = SCHEMA_VERSION
    key: Annotated[EvaluationKey, Field(alias="question")]
    num_in_split: Count
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    metric_info: dict[str, MetricInfo]
    skipped: Annotated[dict[str, str], Field(alias="missing")]
    decode_s: Amount
    environment: dict[str, Any]


_FILE = DocumentFile(
    kind=EvaluationRecord,
    version=SCHEMA_VERSION,
    max_bytes=16 * 2**20,
    name="An evaluation's record",
    error=RunError,
    write_advice="leave out what was not computed.",
    read_advice="remove its folder, and evaluate again.",
)
write_evaluation_record, read_evaluation_record = _FILE.write, _FILE.read
