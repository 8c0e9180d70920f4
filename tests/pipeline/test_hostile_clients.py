"""500 clients at once, polite, slow, leaving, flooding and hostile: what they get, and what they leave behind."""

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hostile_clients import Answers, Client, attacks
from support.served_process import serving
from support.served_requests import make_bundle

from ptl_prefix.backbones.spec import load_backbone

pytestmark = pytest.mark.slow
NUM_CLIENTS = 500
KEYS = [f"the-key-of-client-{number}" for number in range(4)]
LARGEST_BODY = 20_000
TASKS = ["one", "two", "three", "tiny_gpt2"]
SOURCES = ["name : The Old Mill", "Anna: Shall we meet at noon?", "my card is gone", "the river"]
Questions = dict[tuple[str, str], tuple[str, list[float]]]
"""Text and log-probabilities by task and source."""


class Server:
    """The process of a server, and what it holds."""

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self.process = process
        host, _, port = address.removeprefix("http://").partition(":")
        self.clients = [Client(host, int(port), key) for key in KEYS]
        self._address = address

    def gauge(self, name: str) -> float:
        request = urllib.request.Request(f"{self._address}/metrics", headers={"authorization": f"Bearer {KEYS[0]}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = re.search(rf"^ptl_prefix_{name} (\S+)$", answer.read().decode(), re.M)
        assert found is not None, name
        return float(found[1])

    @property
    def num_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def megabytes(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def wait_for_rest(self, num_files: int) -> None:
        """Wait until nothing runs and every connection is closed."""
        end = time.monotonic() + 60
        while self.num_files > num_files or self.gauge("requests_running") or self.gauge("requests_waiting"):
            assert time.monotonic() < end, (self.num_files, num_files, self.gauge("requests_running"))
            time.sleep(0.1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    backbone = load_backbone("tiny_gpt2", name="tiny_gpt2", dtype="float32")
    for seed, name in enumerate(TASKS[:-1]):
        make_bundle(backbone, tmp_path / "bundles" / name, seed=seed, prefix_length=4 + 3 * seed)
    keys = tmp_path / "keys.txt"
    keys.write_text("".join(f"client{number} {key}\n" for number, key in enumerate(KEYS)))
    keys.chmod(0o600)
    limits = [f"max_body_bytes={LARGEST_BODY}", "max_requests=64", "max_requests_per_client=24", "router=none"]
    with serving(f"bundles={tmp_path / 'bundles'}", f"api_keys_file={keys}", *limits) as (process, address, _):
        yield Server(process, address)


def body(task: str, source: str, **changes: Any) -> dict[str, Any]:
    return {"model": task, "prompt": source, "max_tokens": 8, "temperature": 0, "logprobs": 2, **changes}


def choice_of(answer: bytes) -> tuple[str, list[float], list[float]]:
    """Text, log-probabilities, and by how much each token is likelier than the next likely one."""
    lines = [line.removeprefix(b"data: ") for line in answer.split(b"\n\n") if line.startswith(b"data: {")]
    choices = [json.loads(line)["choices"][0] for line in (lines or [answer])]
    found = [choice["logprobs"] for choice in choices if choice["logprobs"] is not None]
    tops = [sorted(top.values(), reverse=True) for one in found for top in one["top_logprobs"]]
    margins = [top[0] - top[1] if len(top) > 1 else 0.0 for top in tops]
    return (
        "".join(choice["text"] for choice in choices),
        [value for one in found for value in one["token_logprobs"]],
        margins,
    )


async def alone(server: Server) -> Questions:
    """What each task answers when nobody else asks; sources whose answers hang on a rounding are left out."""
    answers: Questions = {}
    for source in SOURCES:
        of_source: Questions = {}
        is_clear = True
        for task in TASKS:
            ((status, answer),) = await server.clients[0].ask(server.clients[0].post(body(task, source)))
            assert status == 200, answer
            text, logprobs, margins = choice_of(answer)
            of_source[task, source] = text, logprobs
            is_clear = is_clear and min(margins) > 1e-2
        if is_clear:
            answers |= of_source
    assert len(answers) >= 2 * len(TASKS)
    # A row of another task would be seen: its first log-probability is another one.
    for source in {source for _, source in answers}:
        first = sorted(answers[task, source][1][0] for task in TASKS)
        assert min(b - a for a, b in itertools.pairwise(first)) > 1e-3
    return answers


def is_right(answer: bytes, wanted: tuple[str, list[float]]) -> bool:
    text, logprobs, _ = choice_of(answer)
    return text == wanted[0] and max(abs(a - b) for a, b in zip(logprobs, wanted[1], strict=True)) < 1e-3


async def act(server: Server, number: int, questions: Questions) -> list[int]:
    """What one client does, and the statuses that it gets; a wrong row is an error."""
    client = server.clients[number % len(KEYS)]
    kind, one = number % 10, list(questions)[number % len(questions)]
    ask = body(*one)
    answers: Answers
    if kind < 4:
        answers = await client.ask(client.post(ask))
    elif kind == 4:
        answers = await client.ask(client.post({**ask, "stream": True}), read_pause_s=0.05)
    elif kind == 5:
        return [status for status, _ in await client.leave(client.post({**ask, "max_tokens": 200}), after_s=0.2)]
    elif kind == 6:
        answers = await client.ask(client.post(ask) * 5, num=5)
    elif kind == 7:
        sent = client.post(ask)
        answers = await client.ask(*(sent[start : start + 60] for start in range(0, len(sent), 60)), pause_s=0.1)
    elif kind == 8:
        bad = attacks(client, ask, largest_body=LARGEST_BODY)
        answers = await client.ask(bad[number // 10 % len(bad)])
        assert all(400 <= status < 500 for status, _ in answers), answers
        return [status for status, _ in answers]
    else:
        return [status for status, _ in await client.leave(b"GET / HT", after_s=1.0)]
    assert answers, f"client {number} was not answered"
    for status, answer in answers:
        assert status != 200 or is_right(answer, questions[one]), (number, answer, questions[one])
    return [status for status, _ in answers]


async def flood(server: Server, questions: Questions) -> list[int]:
    found = await asyncio.gather(*(act(server, number, questions) for number in range(NUM_CLIENTS)))
    return [status for statuses in found for status in statuses]


def test_500_clients_get_what_they_get_alone_or_a_refusal_and_leave_nothing_behind(server: Server) -> None:
    questions = asyncio.run(alone(server))
    num_files = server.num_files
    statuses = asyncio.run(flood(server, questions))
    server.wait_for_rest(num_files)
    held = {name: server.gauge(name) for name in ("prefix_bytes", "text_bytes", "prefixes_loaded")}

    # Libraries and allocators grow to their size in the first flood, and once more at times; a leak grows in each.
    for _ in range(3):
        megabytes = server.megabytes
        statuses += asyncio.run(flood(server, questions))
        server.wait_for_rest(num_files)
        if (growth := server.megabytes - megabytes) < 24:
            break

    assert growth < 24
    assert {status for status in statuses if not 400 <= status < 500} == {200}
    assert statuses.count(200) >= 64
    assert 429 in statuses
    assert {name: server.gauge(name) for name in held} == held
    assert asyncio.run(alone(server)).keys() == questions.keys()

    assert set(asyncio.run(stopping(server, questions))) <= {200, 429, 503}
    assert server.process.wait(60) == 0


async def stopping(server: Server, questions: Questions) -> list[int]:
    """The statuses of clients that ask while the server is told to stop."""
    task, source = next(iter(questions))
    asks = []
    for number in range(40):
        client = server.clients[number % len(KEYS)]
        asks.append(asyncio.create_task(client.ask(client.post(body(task, source, max_tokens=30)))))
        await asyncio.sleep(0.01)
        if number == 20:
            server.process.send_signal(signal.SIGTERM)
    found = await asyncio.gather(*asks, return_exceptions=True)  # after the end nobody listens
    assert sum(isinstance(one, list) for one in found) >= 20
    return [status for one in found if isinstance(one, list) for status, _ in one]
