"""A local server with the part of W&B's API that its client needs; it records what the client sends.

In: HTTP on a free port of 127.0.0.1. Out: `FakeWandb`, which has everything that was received, by run: history,
summary, config, files, exit codes. It can be configured to fail, or to press the Stop button.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

KEY = "local-" + "0123456789abcdef" * 2 + "01234567"
"""An API key in the format that W&B's client accepts."""


@dataclass
class FakeRun:
    """What the server has received of one run.

    Args:
        upserts: The variables of each `UpsertBucket`.
        history: Every logged row, in order of arrival.
        summary: The latest summary.
        files: Content of files, by name.
        exit_codes: Exit codes that the client sent; empty while the run is running, or if it died.
    """

    upserts: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)

    def latest(self, name: str) -> Any:
        """The latest value of a variable of `UpsertBucket`; `None` if it was never sent."""
        return next((upsert[name] for upsert in reversed(self.upserts) if upsert.get(name) is not None), None)

    @property
    def config(self) -> dict[str, Any]:
        """The latest config, by the names that users see."""
        values = {}
        for upsert in self.upserts:
            values.update(json.loads(upsert.get("config") or "{}"))
        return {name: entry["value"] for name, entry in values.items() if isinstance(entry, dict) and "value" in entry}


@dataclass
class FakeWandb:
    """The server's state.

    Args:
        url: URL of the server.
        runs: Received runs, by id.
        operations: Names of the GraphQL operations, in order of arrival.
        artifacts: The variables of each `CreateArtifact`.
        views: The variables of each saved workspace and report.
        refuses: Operations that are answered with an error.
        status: HTTP status of every response.
        unknown: Operations that the server does not implement.
        requests: Number of requests of any kind.
        breaks_after_requests: Number of requests after which every response is 500; `None`: never.
        stops_after_rows: Number of rows after which the Stop button is pressed; `None`: never.
    """

    url: str = ""
    runs: dict[str, FakeRun] = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)
    unknown: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    refuses: tuple[str, ...] = ()
    status: int = 200
    breaks_after_requests: int | None = None
    stops_after_rows: int | None = None
    requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, run_id: str) -> FakeRun:
        """Return a run; it is created at the first access."""
        return self.runs.setdefault(run_id, FakeRun())

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that point W&B's client to this server."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "0.1",
        }


@contextmanager
def wandb_at_fake_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    """Start a server that W&B's client in this process and its children uses."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    # The client polls the Stop button every 0.1 s instead of every 15 s.
    run_stopping = pytest.importorskip("wandb.sdk.lib.run_stopping")
    monkeypatch.setitem(run_stopping.RunStopChecker.__init__.__kwdefaults__, "poll_interval", 0.1)
    # The server is a thread of this process, which may be busy for longer than a person would wait.
    wandb_mode = pytest.importorskip("ptl_prefix.tracking.wandb_mode")
    monkeypatch.setitem(wandb_mode.is_reachable.__kwdefaults__, "within_s", 60.0)
    with fake_wandb() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()  # forget the server of another test
        try:
            yield server
        finally:
            wandb.teardown()


@contextmanager
def fake_wandb() -> Iterator[FakeWandb]:
    """Run a server within the context."""
    state = FakeWandb()

    class Handler(_Handler):
        server_state = state

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_state: FakeWandb
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self._body()
        state = self.server_state
        with state.lock:
            state.requests += 1
            if state.breaks_after_requests is not None and state.requests > state.breaks_after_requests:
                state.status = 500
            if state.status != 200:
                answer: Any = {"error": "made up"}
            elif self.path.endswith("/graphql"):
                answer = self._answer(body)
            elif match := re.search(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                answer = self._stream(match[1], body)
            else:
                answer = {}
        self._send(state.status, json.dumps(answer).encode())

    def do_PUT(self) -> None:
        content = self._bytes()
        with self.server_state.lock:
            if match := re.fullmatch(r"/upload/([^/]+)/(.+)", self.path):
                self.server_state.run(match[1]).files[match[2]] = content
        self._send(self.server_state.status, b"")

    def do_GET(self) -> None:
        self.server_state.requests += 1
        self._send(self.server_state.status, b"{}")

    def _bytes(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _body(self) -> dict[str, Any]:
        content = self._bytes()
        try:
            loaded = json.loads(content or b"{}")
        except ValueError:
            return {}
        return loaded if isinstance(loaded, dict) else {}

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        match = re.search(r"(?:query|mutation)\s+(\w+)", body.get("query", ""))
        name, variables = match[1] if match else "", body.get("variables") or {}
        self.server_state.operations.append(name)
        if name in self.server_state.refuses:
            return {"errors": [{"message": "made up"}], "data": None}
        answer = getattr(self, "_answer_" + re.sub(r"(?<!^)(?=[A-Z][a-z])", "_", name).lower(), None)
        if answer is None:
            self.server_state.unknown.append(body)
            return {"data": {}}
        return {"data": answer(variables)}

    def _answer_server_features_query(self, _: Any) -> Any:
        return {"serverInfo": {"features": []}}

    def _answer_server_info(self, _: Any) -> Any:
        return {"serverInfo": {"cliVersionInfo": {"max_cli_version": "9.9.9"}, "latestLocalVersionInfo": None}}

    def _answer_viewer(self, _: Any) -> Any:
        return {
            "viewer": {
                "id": "1",
                "flags": "{}",
                "entity": "someone",
                "username": "someone",
                "teams": {"edges": []},
            }
        }

    def _answer_upsert_bucket(self, variables: dict[str, Any]) -> Any:
        run = self.server_state.run(variables["name"])
        is_new = not run.upserts
        run.upserts.append(variables)
        project = {"name": variables.get("project") or "p", "entity": {"id": "1", "name": "someone"}, "id": "1"}
        bucket = {
            "id": variables["name"],
            "name": variables["name"],
            "displayName": run.latest("displayName"),
            "config": "{}",
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _answer_run_resume_status(self, variables: dict[str, Any]) -> Any:
        run = self.server_state.runs.get(variables["name"])
        if run is None:
            return {"model": None}
        last = run.history[-1:]
        bucket = {
            "id": variables["name"],
            "name": variables["name"],
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.latest("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in last]),
            "eventsTail": "[]",
            "config": run.latest("config") or "{}",
            "tags": [],
            "wandbConfig": "{}",
        }
        return {"model": {"id": "1", "name": "p", "entity": {"id": "1", "name": "someone"}, "bucket": bucket}}

    def _answer_run_history_tail(self, variables: dict[str, Any]) -> Any:
        run = self.server_state.runs.get(variables["name"])
        if run is None:
            return {"model": {"bucket": None}}
        tail = json.dumps([json.dumps(row) for row in run.history[-1:]])
        return {"model": {"bucket": {"historyLineCount": len(run.history), "historyTail": tail}}}

    def _answer_create_run_files(self, variables: dict[str, Any]) -> Any:
        run_id = variables["run"]
        files = [
            {"name": name, "uploadUrl": f"{self.server_state.url}/upload/{run_id}/{name}"}
            for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": run_id, "uploadHeaders": [], "files": files}}

    def _answer_upsert_view2(self, variables: dict[str, Any]) -> Any:
        self.server_state.views.append(variables)
        known = variables.get("id")
        view = {"id": known or f"view-{len(self.server_state.views)}", "name": variables["name"]}
        return {"upsertView": {"view": view, "inserted": known is None}}

    def _answer_upsert_view(self, variables: dict[str, Any]) -> Any:
        answer = self._answer_upsert_view2(variables)
        project = {"id": "1", "name": variables["projectName"], "entityName": variables["entityName"]}
        told = {name: variables[name] for name in ("type", "displayName", "description", "spec")}
        answer["upsertView"]["view"] |= {**told, "project": project, "updatedAt": "2024-05-06T07:08:09Z"}
        return answer

    def _answer_project_internal_id(self, _: Any) -> Any:
        return {"project": {"id": "1", "internalId": "1"}}

    def _answer_get_projects(self, _: Any) -> Any:
        told = {"id": "1", "entityName": "someone", "createdAt": "2024-05-06T07:08:09Z", "isBenchmark": False}
        nodes = [
            {"node": {"__typename": "Project", "name": name, "user": None, **told}} for name in ("p", "ptl_prefix")
        ]
        return {"models": {"edges": nodes, "pageInfo": {"endCursor": None, "hasNextPage": False}}}

    def _answer_create_artifact(self, variables: dict[str, Any]) -> Any:
        self.server_state.artifacts.append(variables)
        number = str(len(self.server_state.artifacts))
        artifact = {"id": number, "state": "PENDING", "artifactSequence": {"id": "1", "latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _answer_create_artifact_manifest(self, variables: dict[str, Any]) -> Any:
        url = f"{self.server_state.url}/upload/artifacts/manifest-{len(self.server_state.artifacts)}.json"
        file = {"id": "1", "name": "m", "displayName": "m", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "1", "file": file}}}

    def _answer_create_artifact_files(self, variables: dict[str, Any]) -> Any:
        nodes = []
        for one in variables["input"]["artifactFiles"]:
            url = f"{self.server_state.url}/upload/artifacts/{one['artifactID']}/{one['name']}"
            node = {
                "id": one["name"],
                "name": one["name"],
                "displayName": one["name"],
                "uploadUrl": url,
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "storagePath": one["name"],
                "artifact": {"id": one["artifactID"]},
            }
            nodes.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _answer_artifact_type(self, _: Any) -> Any:
        return {"project": {"artifact": None}}

    def _answer_organization_core_weave_organizationid(self, _: Any) -> Any:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _answer_commit_artifact(self, variables: dict[str, Any]) -> Any:
        return {"commitArtifact": {"artifact": {"id": variables.get("artifactID"), "digest": "d"}}}

    def _stream(self, run_id: str, body: dict[str, Any]) -> Any:
        run = self.server_state.run(run_id)
        for name, chunk in (body.get("files") or {}).items():
            rows = [json.loads(line) for line in chunk["content"]] if name.endswith((".jsonl", ".json")) else []
            if name == "wandb-history.jsonl":
                offset = chunk.get("offset", len(run.history))
                run.history[offset:] = rows
            elif name == "wandb-summary.json":
                run.summary = rows[-1]
        if body.get("complete"):
            run.exit_codes.append(body.get("exitcode", -1))
        limit = self.server_state.stops_after_rows
        return {"stopped": True} if limit is not None and len(run.history) >= limit else {}
