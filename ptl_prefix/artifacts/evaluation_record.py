"""The record of an evaluation: `metrics.json`, beside the `predictions.jsonl` that it describes.

In: an `EvaluationRecord` at the end of an evaluation. Out: the same record. It is written once, atomically, and never
changed: the folder's name is a hash of everything that the outputs depend on, so that other outputs have other folders.
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
from ptl_prefix.artifacts.prompt_format import PromptFormat, stored_values
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
    """Everything that the outputs of an evaluation depend on.

    Args:
        method: Name of the method; `none` for the bare backbone.
        adaptation: Hash of the bundle's tensors; `None` for the bare backbone.
        backbone: Name of the backbone.
        backbone_weights: Fingerprint of the backbone's weights.
        dtype: Dtype of the computation, and the quantisation of the matrices if there was one.
        task: Name of the task.
        task_version: Version of the task.
        data: Fingerprint of the split's data.
        split: Name of the split.
        num_examples: Number of inputs, evenly spread over the split.
        decoding: Decoding settings.
        over_labels: Whether the most likely label was chosen, instead of decoding free text.
        prompt: Format of the prompts; `None` in records of versions that did not store it.
        prompter: Hash of the tokenizer and of everything else that turns a source into ids; `None` as for `prompt`.
        stop_ids: Ids that end an output; `None` as for `prompt`.
        backbone_config: Fingerprint of the backbone's config; `None` as for `prompt`.
        method_settings: Hash of the bundle's settings, such as its layers; `None` as for `prompt`, and for the
            bare backbone.
        batch_size: Number of prompts in a batch if outputs were sampled, as each batch has a seed; `None` otherwise.
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
    prompt: PromptFormat | None = None
    prompter: str | None = None
    stop_ids: tuple[int, ...] | None = None
    backbone_config: str | None = None
    method_settings: str | None = None
    batch_size: int | None = None

    @property
    def folder_name(self) -> str:
        """The name of the evaluation's folder: the split, and a hash of all fields."""
        values = asdict(self)
        if self.prompt is not None:
            values["prompt"] = stored_values(values["prompt"])
        stored = {name: value for name, value in values.items() if value is not None or name == "adaptation"}
        content = json.dumps(stored, sort_keys=True).encode()
        return f"{self.split}-{hashlib.sha256(content).hexdigest()[:10]}"


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """The record of one evaluation.

    Args:
        schema_version: Version of this record's format.
        key: Everything that the outputs depend on; the file calls it `question`.
        num_in_split: Number of inputs in the whole split.
        metrics: Values by `split/name`. A skipped metric has no entry; NaN is never stored.
        intervals: 95% bootstrap intervals over test items, by the same key; empty without resamples.
        metric_info: Descriptions of the values, by the same key.
        skipped: Reason for each metric that was not computed; the file calls it `missing`.
        decode_s: Seconds of decoding; 0 if all predictions existed.
        environment: Machine and software, as from `fingerprint.environment`.
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
