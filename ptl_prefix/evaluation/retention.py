"""Retention: the loss on text that is not the task's, which tells how much of its language a model keeps.

In: plain text, a backbone and a method. Out: the loss in nats per token. The text is the package's own, or a file of
the user's; no prompt is around it. A decoder-only backbone predicts each window of the text from its first token on; an
encoder-decoder reads the first half of a window and predicts the second.

Windows are the same for every method on one backbone, so that their losses are of the same tokens with the same text
before them. There are few enough of them that the measurement takes no longer than decoding some examples.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ptl_prefix.artifacts.prompt_format import PromptFormat
from ptl_prefix.artifacts.run_record import MetricInfo
from ptl_prefix.backbones.backbone import Backbone
from ptl_prefix.backbones.prompting import Prompter
from ptl_prefix.data.batches import pair_batches
from ptl_prefix.data.collation import EncodedRow
from ptl_prefix.evaluation.loss import summed_loss
from ptl_prefix.methods.method import Method

RETENTION = "retention/loss"
"""The key of the loss in records; the bare backbone's is that of `metric_key.bare_key`."""

_OWN_TEXT = Path(__file__).with_name("retention_text.txt")
_WINDOW_TOKENS = 128
_MAX_TOKENS = 2048
"""Most tokens of all windows together."""
_MAX_BYTES = 64 * 2**20
_NO_PROMPT = PromptFormat(before="", between="", after="{eos}")


class RetentionUnmeasurableError(ValueError):
    """The text cannot be measured on a backbone with a method; the message has the reason."""


@dataclass(frozen=True)
class RetentionText:
    """Text whose loss is measured.

    Args:
        documents: Its documents, at least one.
        version: Version in the metric's description, so that losses on different texts are never compared.
    """

    documents: tuple[str, ...]
    version: str

    @property
    def info(self) -> MetricInfo:
        """The description of the loss."""
        return MetricInfo(
            scale="nats per token",
            direction="minimize",
            version=self.version,
            library=f"torch {torch.__version__}",
        )


def read_retention_text(file: str | None) -> RetentionText:
    """Read a text: paragraphs with empty lines between them, or else one document on each line.

    Args:
        file: Text file; `None` is the text of this package.

    Raises:
        ValueError: The file cannot be read, is too large, is not UTF-8, or is empty.
    """
    if file is None:
        lines = _OWN_TEXT.read_text(encoding="utf-8").splitlines()
        return RetentionText(_documents("\n".join(line for line in lines if not line.startswith("#"))), version="1")
    try:
        size = Path(file).stat().st_size
        text = Path(file).read_text(encoding="utf-8") if size <= _MAX_BYTES else None
    except (OSError, ValueError) as error:
        raise ValueError(f"must be a text file in UTF-8, but '{file}' cannot be read: {error}.") from error
    if text is None:
        raise ValueError(f"must have at most {_MAX_BYTES:,} bytes, but '{file}' has {size:,}; a page of text suffices.")
    documents = _documents(text)
    if not documents:
        raise ValueError(f"must hold text, but '{file}' is empty.")
    return RetentionText(documents, version=f"1, of a text {hashlib.sha256(text.encode()).hexdigest()[:8]}")


def retention_problems(retention: bool, file: str | None, *, prefix: str = "") -> list[str]:
    """The problems of the settings `retention` and `retention_file`; `prefix` is before their names."""
    if file is None:
        return []
    if not retention:
        return [f"`{prefix}retention_file` must be null unless `{prefix}retention` is true, but is '{file}'."]
    try:
        read_retention_text(file)
    except ValueError as error:
        return [f"`{prefix}retention_file` {error}"]
    return []


def measure_retention(backbone: Backbone, method: Method, text: RetentionText, *, batch_size: int) -> float:
    """The loss on a text, in nats per token.

    Args:
        backbone: Frozen model.
        method: Method that is attached to it; `NoAdaptation` for the bare backbone.
        text: The text.
        batch_size: Windows of one forward pass.

    Raises:
        RetentionUnmeasurableError: The tokenizer has no end of text, or no window fits beside the method's positions.
    """
    try:
        prompter = backbone.prompter(_NO_PROMPT)
    except ValueError as error:
        raise RetentionUnmeasurableError(str(error)) from error
    width = _window_width(backbone)
    left = None if backbone.max_positions is None else backbone.max_positions - method.position_offset
    if left is not None and width + prompter.num_fixed_tokens > left:
        raise RetentionUnmeasurableError(
            f"a window of {width} tokens must fit the backbone's positions, but '{method.name}' leaves {max(left, 0)}"
        )
    rows = _windows(text, prompter, width)
    if not rows:
        raise RetentionUnmeasurableError("the text has no document of two tokens or more")
    total = summed_loss(backbone, method, pair_batches(rows, batch_size=batch_size, padding=backbone.padding(prompter)))
    backbone.slots.clear()
    return float(total.nats) / total.num_tokens


def _window_width(backbone: Backbone) -> int:
    """Tokens of a window: it leaves half of a short context window to the method."""
    return _WINDOW_TOKENS if backbone.max_positions is None else min(_WINDOW_TOKENS, backbone.max_positions // 2)


def _windows(text: RetentionText, prompter: Prompter, width: int) -> list[EncodedRow]:
    """Windows of the documents, evenly spread over the text."""
    chunks = [chunk for ids in prompter.tokenize_sources(text.documents) for chunk in _chunks(list(ids), width)]
    kept = min(len(chunks), max(1, _MAX_TOKENS // width))
    chosen = [chunks[index * len(chunks) // kept] for index in range(kept)]
    return [_row(ids, prompter, index) for index, ids in enumerate(chosen)]


def _chunks(ids: list[int], width: int) -> Iterator[list[int]]:
    """Parts of a document of at most `width` ids; one of a single id has nothing to predict."""
    parts = [ids[start : start + width] for start in range(0, len(ids), width)]
    return (part for part in parts if len(part) > 1)


def _row(ids: list[int], prompter: Prompter, example: int) -> EncodedRow:
    """A window as a prompt and its target; the target's end is not predicted, as a window ends anywhere."""
    num_given = 1 if prompter.decoder_start_ids is None else len(ids) // 2
    prompt = [*prompter.before_ids, *ids[:num_given], *prompter.between_ids]
    return EncodedRow(input_ids=[*prompt, *ids[num_given:]], num_source_ids=len(prompt), example=example)


def _documents(text: str) -> tuple[str, ...]:
    """Paragraphs, or lines if no line is empty; each in one line."""
    parts = re.split(r"\n\s*\n", text.strip())
    parts = parts if len(parts) > 1 else text.strip().splitlines()
    return tuple(" ".join(part.split()) for part in parts if part.strip())
