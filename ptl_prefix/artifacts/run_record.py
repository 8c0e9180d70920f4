"""What a run says of itself: `record.json`.

In: a `RunRecord` when the run ends. Out: the same record for whoever lists or compares runs. It is written by an atomic
rename, and refused on reading unless every key is known and of its type.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge
from pydantic import ConfigDict

from ptl_prefix.artifacts.decoding import Decoding
from ptl_prefix.artifacts.document_file import DocumentFile
from ptl_prefix.artifacts.json_document import STRICT
from ptl_prefix.errors import RunError

SCHEMA_VERSION = 1

Status = Literal["finished", "stopped", "failed", "pruned", "died"]
Count = Annotated[int, Ge(0)]
Amount = Annotated[float, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameter counts of a run.

    Args:
        trained: Number of trainable parameters, including those of a reparametrisation.
        stored: Number of parameters in the bundle.
        backbone: Number of parameters of the frozen backbone.
    """

    trained: Count
    stored: Count
    backbone: Count


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What training took.

    Args:
        train_s: Seconds of training, validation excluded, added up over all resumptions.
        steps: Number of optimizer steps.
        tokens: Number of tokens that were trained on, prompt and target, padding excluded, on all devices.
        tokens_per_s: Tokens per second of training.
        peak_memory_bytes: Peak memory of the device in bytes, or of the process on a CPU; `None` if not measured.
        skipped_steps: Number of steps that changed no parameter, as gradients overflowed in float16.
    """

    train_s: Amount
    steps: Count
    tokens: Count
    tokens_per_s: Amount
    peak_memory_bytes: Count | None
    skipped_steps: Count = 0


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What a metric's number means, so that no two meanings are ever put in one column.

    Args:
        scale: Unit or range of the value, such as `nats/token`, `0-1` or `0-100`.
        direction: Whether a smaller or a larger value is better.
        version: Version of the metric's definition; values of different versions are not compared.
        library: Library that computed the value, with its version.
    """

    scale: str
    direction: Literal["minimize", "maximize"]
    version: str
    library: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One training, in full.

    Args:
        schema_version: Version of this file format.
        run_id: Name of the run, which is also the name of its folder unless another was chosen.
        status: How the run ended: by itself (`finished`), by the user (`stopped`), by an error (`failed`), by its
            study's pruner (`pruned`), or killed, in which case the record was rebuilt from the log (`died`).
        task: Name of the task.
        task_version: Version of the task's rendering and data; runs of different versions are never compared.
        backbone: Name of the backbone.
        method: Name of the method.
        seed: Seed of initialisation, batch order and dropout.
        config: Resolved config of the run.
        study: Name of the study that the run is a trial of; `None` if there is none.
        trial: Number of the trial in its study; `None` if there is none.
        budget: Planned length of the training, such as `{"steps": 400}`; `None` if it is not known.
        parameters: Parameter counts.
        cost: Time, tokens and memory of the training.
        decoding: Settings of text generation for the metrics.
        metrics: Metric values by `split/name`; a metric that was not computed is absent, never NaN.
        metric_info: Scale, direction and version of each metric, by the same key or by the name after the slash.
        environment: Python, platform, processor, number of cores, devices, package version, library versions and the
            git commit of the checkout.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    schema_version: int = SCHEMA_VERSION
    run_id: str
    status: Status
    task: str
    task_version: str
    backbone: str
    method: str
    seed: int
    config: dict[str, Any]
    study: str | None
    trial: int | None
    budget: dict[str, int | float] | None
    parameters: Parameters
    cost: Cost
    decoding: Decoding
    metrics: dict[str, float]
    metric_info: dict[str, MetricInfo]
    environment: dict[str, Any]


_FILE = DocumentFile(
    kind=RunRecord,
    version=SCHEMA_VERSION,
    max_bytes=64 * 2**20,
    name="A run's record",
    error=RunError,
    when_unfit="leave out what was not computed.",
    when_unread="leave this run out, or repeat it.",
)
write_record, read_record = _FILE.write, _FILE.read
