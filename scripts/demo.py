"""Shows the server on three tasks and one backbone: `make demo`.

In: nothing; with $PTL_PREFIX_DATA set, the released data of DialogSum, banking77 and E2E, else made-up data of the same
kinds. Out: three prefixes in outputs/demo, trained one after another on the embedded backbone, and what a server
answers with them: each task's test inputs, asked by the task's name and by `auto`, together. The server ends with the
script.

The backbone has 5.4M parameters and each prefix trains for some ten seconds: the answers show that the right prefix is
used for each request, not what a large backbone would write.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ptl_prefix.artifacts.predictions import read_predictions
from ptl_prefix.artifacts.run_folder import RunFolder

COMMAND = [sys.executable, "-m", "ptl_prefix"]
"""The command line of this package, in this environment."""
_START_TIMEOUT_S = 300
_REQUEST_TIMEOUT_S = 300


@dataclass(frozen=True)
class DemoTask:
    """One task of the demo.

    Args:
        name: Name of the task on the server.
        words: Words of the command line that choose its data.
    """

    name: str
    words: tuple[str, ...]


def released_tasks(data: Path) -> list[DemoTask]:
    """The tasks of the optional folder of real data."""
    return [
        DemoTask("summary", ("task=dialogsum", f"task.data_dir={data / 'data/dialogsum'}")),
        DemoTask("tickets", ("task=banking77", f"task.data_dir={data / 'data/banking77'}")),
        DemoTask("data-to-text", ("task=e2e_nlg", f"task.data_dir={data / 'data/e2e'}")),
    ]


def made_up_tasks(folder: Path) -> list[DemoTask]:
    """Three tasks whose data are made here, or built in."""
    summary = _write_pairs(folder / "summary.jsonl", _made_up_dialogues())
    tickets = _write_pairs(folder / "tickets.jsonl", _made_up_tickets())
    return [
        DemoTask("summary", ("task=text_pairs", f"task.data_file={summary}")),
        DemoTask("tickets", ("task=text_pairs", f"task.data_file={tickets}")),
        DemoTask("data-to-text", ("task=table_to_text",)),
    ]


def _write_pairs(path: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"source": source, "target": target}) for source, target in pairs)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _made_up_dialogues() -> list[tuple[str, str]]:
    draw = random.Random(0)
    names, things = ("Anna", "Ben", "Carla", "David"), ("a bicycle", "a table", "a lamp", "a guitar", "a camera")
    days = ("Monday", "Tuesday", "Friday", "Sunday")
    pairs = []
    for _ in range(600):
        one, other = draw.sample(names, 2)
        thing, day, price = draw.choice(things), draw.choice(days), draw.randint(2, 30) * 5
        source = f"{one}: I want to sell {thing}. {other}: How much? {one}: {price} euros. {other}: I come on {day}."
        pairs.append((source, f"{other} will buy {thing} from {one} for {price} euros on {day}."))
    return pairs


def _made_up_tickets() -> list[tuple[str, str]]:
    draw = random.Random(1)
    phrases = {
        "lost card": ("I cannot find my card", "my card is gone", "somebody took my card"),
        "late transfer": ("my transfer has not arrived", "where is the money that I sent", "the payment is late"),
        "new address": ("I have moved house", "please change my address", "my street is another one now"),
        "wrong fee": ("why was I charged a fee", "there is a fee that I do not know", "the fee is too high"),
    }
    greetings, ends = ("Hello,", "Hi there,", "Good morning,", ""), ("please help.", "what can I do?", "thanks!", "")
    pairs = []
    for _ in range(600):
        label = draw.choice(sorted(phrases))
        words = (
            draw.choice(greetings),
            draw.choice(phrases[label]) + f" since {draw.randint(2, 60)} days,",
            draw.choice(ends),
        )
        pairs.append((" ".join(filter(None, words)), label))
    return pairs


def train(task: DemoTask, folder: Path, *, steps: int, num_examples: int) -> RunFolder:
    """Train a prefix for a task; its test inputs, or those of validation, are among the run's predictions."""
    run = folder / task.name
    shutil.rmtree(run, ignore_errors=True)
    words = (
        f"hydra.run.dir={run}",
        "data.batch_size=16",
        f"trainer.max_steps={steps}",
        f"trainer.val_check_interval={steps}",
        "trainer.limit_val_batches=2",
        f"evaluation.num_examples={num_examples}",
        "evaluation.compare_bare=false",
        "evaluation.retention=false",
        "generation.max_new_tokens=40",
        "tracking=none",
    )
    subprocess.run([*COMMAND, "train", *task.words, *words], check=True, stdout=subprocess.DEVNULL)
    return RunFolder(run)


def _test_predictions(run: RunFolder) -> Path:
    """The predictions of a run: of its test split, or of its validation split where there is none."""
    return next(run.evaluation.glob("*/predictions.jsonl"))


class Server:
    """A running server, asked over HTTP.

    Args:
        api: Address of the API.
        key: API key.
    """

    def __init__(self, api: str, key: str) -> None:
        self._api, self._key = api, key

    def get(self, path: str) -> Any:
        """The JSON answer of a GET."""
        return self._open(urllib.request.Request(f"{self._api}/{path}"))

    def complete(self, model: str, source: str) -> Any:
        """The completion of a source, as JSON; a refusal too."""
        body = json.dumps({"model": model, "prompt": source, "max_tokens": 40, "temperature": 0}).encode()
        headers = {"Content-Type": "application/json"}
        return self._open(urllib.request.Request(f"{self._api}/completions", data=body, headers=headers))

    def _open(self, request: urllib.request.Request) -> Any:
        request.add_header("Authorization", f"Bearer {self._key}")
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as refusal:
            return json.load(refusal)


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """The server over the bundles of a folder, on a free port of this machine; it ends with the context."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PTL_PREFIX_API")}
    command = [*COMMAND, "serve", f"bundles={folder}", "port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield _announced(process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def _announced(process: "subprocess.Popen[str]") -> Server:
    """The address and the key that a server prints when it is ready."""
    assert process.stdout is not None
    end, text = time.monotonic() + _START_TIMEOUT_S, ""
    for line in process.stdout:
        text += line
        sys.stdout.write(f"  | {line}")
        api, key = (re.search(pattern, text, re.M) for pattern in (r"^API: +(\S+)$", r"^key: +(\S+)"))
        if api and key:
            return Server(api[1], key[1])
        if time.monotonic() > end:
            break
    raise SystemExit(f"The server must be ready within {_START_TIMEOUT_S} s, but is not; its output is above.")


def ask(server: Server, inputs: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Send every input by its task's name and by `auto`, all of them together."""
    wanted = [
        (task, source, model) for task, sources in inputs.items() for source in sources for model in (task, "auto")
    ]
    random.Random(0).shuffle(wanted)

    def one(task: str, source: str, model: str) -> dict[str, str]:
        answer = server.complete(model, source)
        refusal = answer.get("error", {}).get("message", "")
        chosen = "" if refusal else answer["model"].partition("@")[0]
        text = refusal if refusal else answer["choices"][0]["text"]
        return {"task": task, "asked": model, "chosen": chosen, "source": source, "text": text.strip()}

    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(lambda words: one(*words), wanted))


def show(
    answers: Sequence[Mapping[str, str]], cards: Sequence[Mapping[str, Any]], seconds: float, console: Console
) -> None:
    """Print some answers, the routing's accuracy, and what is in memory."""
    table = Table(title="some answers; every task's requests were in one batch", show_lines=True)
    for heading in ("asked for", "task chosen", "source", "answer"):
        table.add_column(heading, overflow="fold")
    for task in dict.fromkeys(answer["task"] for answer in answers):
        for asked in (task, "auto"):
            answer = next(one for one in answers if one["task"] == task and one["asked"] == asked)
            table.add_row(asked, answer["chosen"] or "refused", answer["source"][:160], answer["text"][:160])
    console.print(table)
    automatic = [answer for answer in answers if answer["asked"] == "auto"]
    right = sum(answer["chosen"] == answer["task"] for answer in automatic)
    wrong = sum(answer["chosen"] not in ("", answer["task"]) for answer in automatic)
    console.print(
        f"auto: {right} of {len(automatic)} requests went to the right task, {wrong} to a wrong one, "
        f"{len(automatic) - right - wrong} were refused"
    )
    console.print(f"{len(answers)} requests in {seconds:.1f} s")
    base = next(card for card in cards if card["parent"] is None and card["id"] != "auto")
    console.print(f"in memory: the backbone once, {base['bytes'] / 1e6:.1f} MB ({base['id']}), and")
    for card in cards:
        if card["parent"] is not None:
            console.print(f"  {card['id']}: a prefix of {card['prefix_length']}, {card['prefix_bytes'] / 1e3:.0f} kB")


def main(words: Sequence[str] | None = None) -> None:
    """Train, serve, ask, and stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--steps", type=int, default=150, help="training steps of each prefix")
    parser.add_argument("--requests", type=int, default=12, help="test inputs of each task")
    arguments = parser.parse_args(words)
    console = Console()
    data = os.environ.get("PTL_PREFIX_DATA")
    tasks = released_tasks(Path(data)) if data else made_up_tasks(arguments.out / "data")
    bundles = arguments.out / "bundles"
    inputs = {}
    for task in tasks:
        console.print(f"training a prefix for {task.name} ({' '.join(task.words)}) ...")
        start = time.perf_counter()
        run = train(task, bundles, steps=arguments.steps, num_examples=arguments.requests)
        console.print(f"  {time.perf_counter() - start:.0f} s, in {run.path}")
        inputs[task.name] = [prediction.source for prediction in read_predictions(_test_predictions(run))]
    console.print("starting the server ...")
    with running_server(bundles) as server:
        start = time.perf_counter()
        answers = ask(server, inputs)
        show(answers, server.get("models")["data"], time.perf_counter() - start, console)
    console.print(f"the server has ended; its bundles stay in {bundles}: ptl-prefix serve bundles={bundles}")


if __name__ == "__main__":
    main()
