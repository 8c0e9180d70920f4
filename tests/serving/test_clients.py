"""Clients that people use work unchanged: OpenAI's own, LangChain's, and curl."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.live_server import ADMIN_KEY, KEY, LiveServer, live_server
from support.scripted_engine import WORDS

pytestmark = pytest.mark.slow
TEXT = "".join(WORDS)


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with live_server() as server:
        yield server


def test_openais_client(server: LiveServer) -> None:
    openai = pytest.importorskip("openai", reason="needs the package openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny", "rivers", "towns"]
        card = client.models.retrieve("towns")
        assert (card.parent, card.prefix_length) == ("tiny", 5)

        answer = client.completions.create(model="towns", prompt=["a", "b"], n=2, logprobs=2, stop=["x"], seed=1)
        assert [choice.text for choice in answer.choices] == [TEXT] * 4
        assert answer.usage.prompt_tokens_details.cached_tokens == 10
        chat = client.chat.completions.create(
            model=card.root, messages=[{"role": "user", "content": "a"}], logprobs=True, top_logprobs=2, temperature=0.5
        )
        assert chat.choices[0].message.content == TEXT
        assert len(chat.choices[0].logprobs.content[0].top_logprobs) == 2

        raw = client.completions.create(model="towns", prompt="a", extra_body={"raw": True, "timeout_s": 5})
        assert raw.choices[0].text == TEXT
        stream = client.chat.completions.create(
            model="towns",
            messages=[{"role": "user", "content": "a"}],
            stream=True,
            stream_options={"include_usage": True},
            max_completion_tokens=3,
        )
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "The Old Mill"
        assert chunks[-1].usage.completion_tokens == 3
        streamed = client.completions.create(model="rivers", prompt="a", stream=True)
        assert "".join(chunk.choices[0].text for chunk in streamed) == TEXT

        with pytest.raises(openai.NotFoundError, match="rivers, towns"):
            client.completions.create(model="nope", prompt="a")
        with pytest.raises(openai.BadRequestError, match="tools"):
            client.chat.completions.create(
                model="towns",
                messages=[{"role": "user", "content": "a"}],
                tools=[{"type": "function", "function": {"name": "f"}}],
            )
        with pytest.raises(openai.APIError):  # in the middle of a stream
            server.engine.seconds_per_token = 0.1
            list(client.completions.create(model="towns", prompt="a", stream=True, extra_body={"timeout_s": 0.2}))
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


@pytest.mark.filterwarnings("default")  # the library's own
def test_langchains_chat_model(server: LiveServer) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="needs the package langchain-openai")
    model = langchain.ChatOpenAI(base_url=f"{server.url}/v1", api_key=KEY, model="towns", max_retries=0)

    assert model.invoke("name : x").content == TEXT
    assert "".join(chunk.content for chunk in model.stream("name : x")) == TEXT
    limited = model.bind(max_tokens=2, stop=["x"]).invoke("name : x")
    assert limited.content == "The Old"
    assert limited.usage_metadata["input_token_details"]["cache_read"] == 5


def test_curl_as_documented(server: LiveServer) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    page = (Path(__file__).parents[2] / "docs/how-to/serve.md").read_text()
    block = next(part for part in page.split("```console\n")[1:] if part.startswith("$ curl")).partition("```")[0]
    commands = [part.strip().replace("\\\n", " ") for part in block.split("$ curl")[1:]]
    script = "\n".join(f"curl -s {command}; echo; echo ====" for command in commands)
    script = script.replace("http://127.0.0.1:8000", server.url).replace('"mill"', '"towns"')
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, timeout=60, env={**os.environ, "PTL_PREFIX_API_KEY": KEY}
    )
    whole, stream, models = done.stdout.split("====\n")[:3]

    assert json.loads(whole)["choices"][0]["text"] == TEXT
    assert stream.rstrip().endswith("data: [DONE]")
    assert [card["id"] for card in json.loads(models)["data"]] == ["tiny", "rivers", "towns"]


def test_schemathesis_finds_nothing(server: LiveServer) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="needs the package schemathesis")
    with server.client() as client:
        document = client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

    checks = [content_type_conformance, status_code_conformance]

    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
        @given(case=operation.as_strategy())
        def check(case: object) -> None:
            headers = {"authorization": f"Bearer {ADMIN_KEY}"}
            answer = case.call(base_url=server.url, headers=headers)  # type: ignore[attr-defined]
            assert answer.status_code < 500 or answer.status_code in (503, 504), answer.content
            case.validate_response(answer, checks=checks)  # type: ignore[attr-defined]

        check()
    assert httpx.get(f"{server.url}/health").status_code == 200
