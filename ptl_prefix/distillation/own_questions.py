"""The user's own questions on a document.

In: a file, text with one question a line, or JSON lines with `question`. Out: the questions, each once.
"""

from pathlib import Path

from ptl_prefix.artifacts.json_document import DocumentError, parse_object, shortened
from ptl_prefix.errors import DataError

_MAX_BYTES = 64 * 2**20


def read_questions(path: str | Path) -> list[str]:
    """The questions of a file, in its order; other keys of a line of JSON are ignored.

    Raises:
        DataError: The file cannot be read or has no question, or a line is none; the message names the line.
    """
    law = "A file of questions must be text with one a line, or .jsonl with `question`"
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{law}, but {path} cannot be read ({error.strerror}); correct the path.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{law}, but {path} is not UTF-8 at byte {error.start}; convert it.") from error
    is_json = Path(path).suffix.lower() in (".jsonl", ".ndjson")
    found = dict[str, None]()
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            question = _question(line, f"{path}, line {number}") if is_json else line.strip()
            found[question] = None
    if not found:
        raise DataError(f"{law}, but {path} has none; add one.")
    return list(found)


def _question(line: str, place: str) -> str:
    law = f"{place}: a question must be an object with the text `question`"
    try:
        values = parse_object(line)
    except DocumentError as error:
        raise DataError(f"{law}, but it {error}; correct the line.") from error
    question = values.get("question")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{law}, but it is {shortened(question)}; correct the line.")
    return question.strip()
