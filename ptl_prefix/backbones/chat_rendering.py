"""Renders conversations with a chat template, in a process that is ended if it takes too long.

In: a `ChatFormat`, and the tokenizer of a backbone. Out: the format with the template's text and hash; and texts of
conversations. Each process has one worker, started by the first rendering; see `chat_worker.py`.
"""

import atexit
import contextlib
import hashlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ptl_prefix.artifacts.conversation import Message
from ptl_prefix.artifacts.prompt_format import MAX_TEMPLATE_CHARACTERS, ChatFormat
from ptl_prefix.errors import BackboneError

BUILT_IN = Path(__file__).parent / "chat_templates"
"""The built-in templates, one file each."""
_START_S, _RENDER_S = 120.0, 10.0
"""Longest start of a worker, and longest rendering of a conversation, which takes less than a millisecond."""
_MAX_ANSWER_BYTES = 64 * 2**20


def resolve_template(chat: ChatFormat, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """The format with the text and the hash of the template that its name has for a backbone.

    Args:
        chat: Format of a task, or of a bundle, whose text is not used.
        tokenizer: Tokenizer of the backbone.

    Raises:
        ValueError: The backbone has no template, or the format has the hash of another one.
    """
    text = _own_template(tokenizer) if chat.name == "backbone" else (BUILT_IN / f"{chat.name}.jinja").read_text("utf-8")
    if text is None:
        raise ValueError(
            "Conversations must be rendered with a chat template, but the backbone's tokenizer has none; choose a "
            "built-in one with task.chat_template=chatml (or llama3, gemma), or a backbone with one of its own."
        )
    if len(text) > MAX_TEMPLATE_CHARACTERS:
        raise ValueError(
            f"A chat template must have at most {MAX_TEMPLATE_CHARACTERS:,} characters, but the backbone's has "
            f"{len(text):,}; choose a built-in one with task.chat_template=chatml (or llama3, gemma)."
        )
    sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    if chat.sha256 not in (None, sha256):
        owner = "of the backbone" if chat.name == "backbone" else f"'{chat.name}' of this version of ptl_prefix"
        raise ValueError(
            f"The chat template {owner} must be the one of the training, with the SHA-256 {chat.sha256:.12}, but has "
            f"{sha256:.12}; a template is never taken from a bundle: use the backbone's files of the training, or "
            "train again."
        )
    return replace(chat, text=text, sha256=sha256)


def render(template: str, messages: Sequence[Message], *, is_prompt: bool, values: dict[str, str] | None = None) -> str:
    """Render a conversation.

    Args:
        template: Text of the template.
        messages: The conversation.
        is_prompt: Whether the template's start of a reply stands at the end.
        values: What the template sees besides, such as `bos_token`.

    Raises:
        ValueError: The template refuses the conversation, fails, or needs too much time or memory; the message is the
            end of a sentence about it.
    """
    request = {
        "template": template,
        "messages": [message._asdict() for message in messages],
        "is_prompt": is_prompt,
        "values": values or {},
    }
    answer = _WORKER.ask(request)
    if "text" not in answer:
        raise ValueError(str(answer["error"]))
    return str(answer["text"])


def special_values(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The special tokens that a template sees by their names, as transformers gives them."""
    tokens: dict[str, Any] = dict(tokenizer.special_tokens_map)
    return {name: str(token) for name, token in tokens.items() if not isinstance(token, list)}


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    template: Any = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


class _Worker:
    """A process that renders, of which each process has its own: a fork must not read its parent's answers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._inherited: subprocess.Popen[bytes] | None = None  # kept: it must not be waited for when it is collected

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request, and wait for its answer."""
        with self._lock:
            if self._process is None or self._owner != os.getpid():
                self._start()
            process = self._process
            assert process is not None and process.stdin is not None
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
                return self._read(process, _RENDER_S)
            except TimeoutError:
                self.close()
                return {"error": f"it takes more than {_RENDER_S:g} seconds"}
            except (EOFError, BrokenPipeError):
                self.close()
                return {"error": "it ends the process that renders it, as with too much memory"}
            except BaseException:
                self.close()  # Its answer would be taken for that of the next request.
                raise

    def _start(self) -> None:
        # Not in the working folder's reach: a file called json.py there would be imported.
        command = [sys.executable, "-P", "-m", "ptl_prefix.backbones.chat_worker"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._owner, self._inherited = os.getpid(), self._process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            self._read(self._process, _START_S)
        except (TimeoutError, EOFError) as error:
            self.close()
            raise BackboneError(
                "A process that renders chat templates must start, but did not; see what it says: "
                f"{' '.join(command)} < /dev/null"
            ) from error

    def _read(self, process: subprocess.Popen[bytes], limit_s: float) -> dict[str, Any]:
        """The next line of the worker's output."""
        assert process.stdout is not None
        descriptor, deadline, data = process.stdout.fileno(), time.monotonic() + limit_s, bytearray()
        while not data.endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise TimeoutError
            part = os.read(descriptor, 2**16)
            data += part
            if not part or len(data) > _MAX_ANSWER_BYTES:
                raise EOFError
        answer: dict[str, Any] = json.loads(data)
        return answer

    def close(self) -> None:
        """End the worker, if this process has one."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # of what was not sent
                    stream.close()


_WORKER = _Worker()
atexit.register(_WORKER.close)
