"""Predictions of a system with their references: `predictions.jsonl`.

In: `Prediction`s, or a file of any system with one JSON object per line, with `id`, `source`, `references` and
`hypothesis`. Out: the same. `values` and `group` are optional, and unknown keys are ignored, as another system may have
written them; anything else that does not fit is an error that names the line.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ptl_prefix.artifacts.atomic import write_atomically
from ptl_prefix.artifacts.json_document import DocumentError, parse_object
from ptl_prefix.errors import DataError

_OPTIONAL = ("values", "group")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One output of a system with its references.

    Args:
        id: Id of the example in its split.
        source: Input text, as the task renders it.
        references: Reference outputs, at least one.
        hypothesis: Output of the system; may be empty.
        values: Strings that a faithful output contains word for word; may be empty.
        group: Part of the split that is also scored by itself, such as `seen`; empty where there are no parts.
    """

    id: str
    source: str
    references: tuple[str, ...]
    hypothesis: str
    values: tuple[str, ...] = ()
    group: str = ""


def write_predictions(path: str | Path, predictions: Iterable[Prediction]) -> None:
    """Write a file of predictions atomically."""
    write_atomically(path, "".join(f"{to_line(prediction)}\n" for prediction in predictions))


def to_line(prediction: Prediction) -> str:
    """One line of the file, without its end; empty optional values are left out."""
    values = asdict(prediction)
    kept = {key: value for key, value in values.items() if value or key not in _OPTIONAL}
    return json.dumps(kept, ensure_ascii=False)


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read the predictions of a file, in its order.

    Raises:
        DataError: The file cannot be read or is empty, or a line is not a prediction; the message names the line.
    """
    found: list[Prediction] = []
    first_lines: dict[str, int] = {}
    for number, line in _lines(Path(path)):
        prediction = _prediction(line, f"{path}, line {number}")
        if (earlier := first_lines.setdefault(prediction.id, number)) != number:
            raise DataError(
                f"{path}, line {number}: ids must differ, but {prediction.id!r} is also the id of line {earlier}; "
                "keep one hypothesis for each input."
            )
        found.append(prediction)
    if not found:
        raise DataError(f"{path} must hold one prediction per line, but is empty; check the program that wrote it.")
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, split at LF only, without empty ones; a byte order mark and CR before LF are ignored."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} must be a readable file, but: {error.strerror}; correct the path.") from error
    for number, line in enumerate(data.split(b"\n"), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number}: a file of predictions must be UTF-8, but byte {line[error.start]:#04x} is not "
                "(is it UTF-16 or Latin-1?); convert it."
            ) from error
        if text.strip():
            yield number, text


def _prediction(line: str, place: str) -> Prediction:
    try:
        values = parse_object(line)
    except DocumentError as error:
        raise DataError(f"{place}: a prediction must be one JSON object, but {error}; correct the line.") from error
    references = _texts(values, "references", place)
    if not references:
        raise DataError(f"{place}: a prediction must have at least one reference, but has none; add one.")
    return Prediction(
        id=_id(values, place),
        source=_text(values, "source", place),
        references=references,
        hypothesis=_text(values, "hypothesis", place),
        values=_texts(values, "values", place) if "values" in values else (),
        group=_text(values, "group", place) if "group" in values else "",
    )


def _id(values: dict[str, Any], place: str) -> str:
    """The id as text; an integer is accepted, as other systems number their inputs."""
    number = values.get("id")
    if isinstance(number, int) and not isinstance(number, bool):
        return str(number)
    return _text(values, "id", place)


def _text(values: dict[str, Any], key: str, place: str) -> str:
    text = _given(values, key, place)
    if not _is_text(text):
        raise DataError(f"{place}: '{key}' must be text, but is {text!r:.60}; correct the line.")
    return str(text)


def _texts(values: dict[str, Any], key: str, place: str) -> tuple[str, ...]:
    texts = _given(values, key, place)
    if not isinstance(texts, list) or not all(map(_is_text, texts)):
        raise DataError(f"{place}: '{key}' must be a list of texts, but is {texts!r:.60}; correct the line.")
    return tuple(texts)


def _given(values: dict[str, Any], key: str, place: str) -> Any:
    if key not in values:
        raise DataError(
            f"{place}: a prediction must have '{key}', but has {', '.join(values) or 'nothing'}; add it, or rename "
            "the key that holds it."
        )
    return values[key]


def _is_text(value: object) -> bool:
    """Whether a value is text that a UTF-8 file can hold; JSON escapes can spell lone surrogates, which it cannot."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)
