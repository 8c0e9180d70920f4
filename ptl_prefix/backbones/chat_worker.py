"""The process that renders chat templates: `python -m ptl_prefix.backbones.chat_worker`.

In: on standard input, one JSON object a line, with a template, messages and the values that the template sees. Out: on
standard output, a line with the text, or with the reason why there is none.

A template is a program from a model's folder. It runs in transformers' sandbox, and here, in a process of its own: no
limit inside a process would end `10 ** 10 ** 10`. `chat_rendering.py` ends this process if an answer takes too long,
and it may have little memory.
"""

import contextlib
import json
import resource
import sys
from datetime import datetime
from typing import Any

from transformers.utils import chat_template_utils

_MAX_MEMORY_BYTES = 2 * 2**30
_MAX_EXTRA_CHARACTERS = 2**20
"""Most characters that a template may write besides what it is given."""


class _FixedDate:
    """The date for templates that write today's: prompts must be the same in training and, later, in serving.

    It is the one that Llama's templates write where they are told none.
    """

    @staticmethod
    def now() -> datetime:
        return datetime(2024, 7, 26)


def main() -> None:
    """Answer each line of standard input, until it is closed."""
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    chat_template_utils.datetime = _FixedDate  # type: ignore[assignment, attr-defined]
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(line)), flush=True)


def _answer(line: str) -> dict[str, str]:
    try:
        request = json.loads(line)
        text = _render(**request)
    except Exception as error:  # of the template: each of its expressions may raise an error of its own
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    if len(text) > len(line) + _MAX_EXTRA_CHARACTERS:
        return {"error": f"it writes {len(text)} characters for a conversation of {len(line)}"}
    return {"text": text}


def _render(template: str, messages: list[dict[str, Any]], is_prompt: bool, values: dict[str, Any]) -> str:
    rendered: Any = chat_template_utils.render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=is_prompt, **values
    )
    return str(rendered[0][0])  # of the only conversation; the annotation there says that it is a text


if __name__ == "__main__":
    main()
