"""The header `X-Task`, with which a balancer keeps the requests of a task on one server."""

from collections.abc import Iterator, Sequence

import pytest
from support.live_server import LiveServer, live_server

from ptl_prefix.serving.api_error import ApiError
from ptl_prefix.serving.task_header import check_task_header


@pytest.mark.parametrize(
    ("values", "model"),
    [([], "towns"), (["towns"], "towns"), (["towns"], "towns@abc"), (["towns@abc"], "towns@abc"), (["auto"], "auto")],
)
def test_a_header_that_names_the_bodys_task_is_accepted(values: Sequence[str], model: str) -> None:
    check_task_header(values, model)


@pytest.mark.parametrize(
    ("values", "model"),
    [(["rivers"], "towns"), (["towns", "rivers"], "towns"), (["towns@def"], "towns@abc"), ([""], "towns")],
)
def test_a_header_that_names_another_task_is_refused(values: Sequence[str], model: str) -> None:
    with pytest.raises(ApiError) as refusal:
        check_task_header(values, model)

    assert (refusal.value.status, refusal.value.code, refusal.value.param) == (400, "task_mismatch", "model")
    assert f"send '{model.partition('@')[0]}', or leave the header out" in refusal.value.message


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with live_server() as running:
        yield running


BODIES = {
    "/v1/completions": {"model": "towns", "prompt": "x", "max_tokens": 1},
    "/v1/chat/completions": {"model": "towns", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "/v1/prefix_attention": {"model": "towns", "prompt": "x"},
}


@pytest.mark.parametrize("path", BODIES)
def test_every_route_with_a_model_compares_the_two(server: LiveServer, path: str) -> None:
    with server.client() as client:
        agreeing, other = (
            client.post(path, json=BODIES[path], headers={"x-task": task}) for task in ("towns", "rivers")
        )
        described = client.get("/openapi.json").json()["paths"][path]["post"]["parameters"]

    assert agreeing.status_code == 200
    assert (other.status_code, other.json()["error"]["code"]) == (400, "task_mismatch")
    assert [one["name"] for one in described] == ["X-Task"]
