"""`ptl-prefix serve` as a process: what it says, serves, refuses before it loads, and how it ends."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from support.scripted_vllm import TOKENS, scripted_vllm
from support.served_process import COMMAND, serving

from ptl_prefix.artifacts.document_text import text_sha256
from ptl_prefix.artifacts.manifest import MANIFEST_FILE, read_manifest, sealed_text

pytestmark = pytest.mark.slow
BRIEF = [
    "trainer.max_steps=2",
    "trainer.limit_val_batches=1",
    "evaluation.num_examples=1",
    "evaluation.compare_bare=false",
]
SOURCE = "name : The Old Mill | kind : pub | city : Rome"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run as the task `towns`."""
    folder = tmp_path_factory.mktemp("served")
    words = [
        "train",
        *BRIEF,
        "tracking=none",
        f"hydra.run.dir={folder / 'towns'}",
        f"data.cache_dir={folder.parent / 'c'}",
    ]
    subprocess.run([*COMMAND, *words], check=True, capture_output=True, timeout=600, cwd=folder.parent)
    return folder


def refused(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [*COMMAND, "serve", *words], capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )
    assert done.returncode == 2, done.stderr
    assert "loading" not in done.stdout
    return done.stderr


def write_bundle_of(document: Path, folder: Path, run: Path) -> None:
    """A run's bundle, as one of a document as it is now."""
    shutil.copytree(run / "bundle", folder)
    manifest = replace(
        read_manifest(folder), document_sha256=text_sha256(document.read_text()), document_path=str(document)
    )
    (folder / MANIFEST_FILE).write_text(sealed_text(manifest))


def test_a_bundle_whose_document_has_changed_is_served_and_said_to_be_stale(bundles: Path, tmp_path: Path) -> None:
    manual, faq = tmp_path / "manual.txt", tmp_path / "faq.txt"
    for document in (manual, faq):
        document.write_text("The mill has one wheel.")
        write_bundle_of(document, tmp_path / "served" / document.stem, bundles / "towns")
    manual.write_text("The mill has two wheels.")

    with serving(f"bundles={tmp_path / 'served'}") as (_, address, printed):
        said = "".join(printed)
        key = re.search(r"ptl-[\w-]{40,}", said)
        assert key is not None
        with httpx.Client(base_url=address, headers={"authorization": f"Bearer {key[0]}"}, timeout=60) as client:

            def states() -> dict[str, str]:
                cards = client.get("/v1/models").json()["data"]
                return {card["id"]: card["document"]["state"] for card in cards if card.get("document")}

            at_start = states()
            faq.unlink()
            later = states()
            answered = client.post("/v1/completions", json={"model": "manual", "prompt": SOURCE, "max_tokens": 2})

    assert re.search(rf"  manual@.*\n    stale: its document {manual} has changed", said)
    assert said.count("stale") == 1
    assert at_start == {"manual": "changed", "faq": "unchanged"}
    assert later == {"manual": "changed", "faq": "missing"}
    assert answered.status_code == 200

    def said_by(verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, verb, *words, SOURCE]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)

    served = tmp_path / "served/manual"
    generated = said_by("generate", str(served), "max_new_tokens=2")
    assert f"the bundle is stale: its document {manual} has changed" in generated.stderr
    inspected = said_by("inspect", f"bundle={served}", f"out={tmp_path / 'inspection'}").stdout
    assert f"changed in {manual}; its document {manual} has changed" in inspected


def test_a_server_serves_a_run_and_ends_gently(bundles: Path) -> None:
    with serving(f"bundles={bundles}") as (process, address, printed):
        said = "".join(printed)
        key = re.search(r"ptl-[\w-]{40,}", said)
        assert key is not None
        assert "towns@" in said and "prefix_tuning, 10 rows" in said
        with httpx.Client(base_url=address, headers={"authorization": f"Bearer {key[0]}"}, timeout=60) as client:
            body = {"model": "towns", "prompt": SOURCE, "max_tokens": 8}
            text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
            assert client.get("/ready").status_code == 200
            alone = subprocess.run(
                [*COMMAND, "generate", str(bundles / "towns"), SOURCE, "max_new_tokens=8"],
                capture_output=True,
                text=True,
                check=True,
                timeout=600,
            )
            # In bfloat16 a batch may round a tie elsewhere; the first words are the same.
            assert alone.stdout.split()[:2] == text.split()[:2]
            sampled = [client.post("/v1/completions", json={**body, "temperature": 1, "seed": 5}) for _ in range(2)]
            assert sampled[0].json()["choices"][0]["text"] == sampled[1].json()["choices"][0]["text"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_what_is_wrong_is_said_before_weights_load(bundles: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("alice short\n")
    (tmp_path / "empty").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        message = refused(f"bundles={bundles}", f"port={taken.getsockname()[1]}", f"api_keys_file={keys}")
    assert "The config has 2 mistakes" in message
    assert "`host` and `port` must be a free address" in message
    assert "line 1: a key must have at least 16 characters" in message
    assert "`bundles` must be a folder" in refused("bundles=/nowhere")
    assert "`backbone` must be given" in refused(f"bundles={tmp_path / 'empty'}", "port=0")
    assert "`upstream` must be given with engine=vllm" in refused(f"bundles={bundles}", "engine=vllm", "port=0")
    assert "`upstream` must be a URL" in refused(f"bundles={bundles}", "engine=vllm", "upstream=vllm:8000", "port=0")
    assert "where there are no API keys" in refused(f"bundles={bundles}", "host=0.0.0.0", "port=0")


def test_the_gateway_answers_with_what_vllm_generates(bundles: Path) -> None:
    key = "a-key-of-this-test"
    headers = {"authorization": f"Bearer {key}", "x-own": "1"}
    with (
        scripted_vllm() as vllm,
        serving(f"bundles={bundles}", "engine=vllm", f"upstream={vllm.url}", PTL_PREFIX_API_KEY=key) as served,
        httpx.Client(base_url=served[1], headers=headers, timeout=60) as client,
    ):
        assert "on vLLM" in "".join(served[2])
        body = {"model": "towns", "prompt": SOURCE}
        answer = client.post("/v1/completions", json=body)
        assert answer.json()["usage"]["completion_tokens"] == len(TOKENS)
        streamed = client.post("/v1/completions", json={**body, "stream": True}).text
        assert streamed.endswith("data: [DONE]\n\n")
        for name, value in (("echo", True), ("prompt_logprobs", 1), ("cache_salt", "x"), ("kv_transfer_params", {})):
            assert client.post("/v1/completions", json={**body, name: value}).json()["error"]["param"] == name
        assert headers.keys().isdisjoint(vllm.headers[-1])
        assert vllm.bodies[-1]["prompt"][:10] == [0] * 10
        vllm.refusal = (500, "out of memory")
        assert client.post("/v1/completions", json=body).status_code == 502


_DEAD = """
import sys
sys.path.insert(0, {tests!r})
from support import live_server, scripted_engine
from ptl_prefix.serving.health import Health

engine = scripted_engine.ScriptedEngine()
service = live_server.made_service(engine, scripted_engine.ListedStore([]))
service.health = Health(engine, unhealthy_after_s=1.0, exit_after_s=1.0)
process = live_server.HttpProcess(
    live_server.make_app(service, live_server.keys()), service, drain_timeout_s=1.0, rescan_every_s=None,
    when_listening=lambda: {change},
)
sys.exit(process.serve_on(live_server.bind("127.0.0.1", 0)))
"""


@pytest.mark.parametrize("change", ["setattr(engine, 'is_dead', True)", "setattr(engine, 'heartbeat_age_s', 9.0)"])
def test_a_dead_or_hung_engine_ends_the_process_with_its_code(change: str) -> None:
    tests = str(Path(__file__).parents[1])
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _DEAD.format(tests=tests, change=change)], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, "The server ends, as the engine's" in done.stderr) == (4, True), done.stderr
    assert time.monotonic() - begun < 250
