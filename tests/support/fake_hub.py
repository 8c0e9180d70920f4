"""A local server with the part of the Hugging Face hub's API that its client needs for bundles.

In: HTTP on a free port of 127.0.0.1. Out: `FakeHub`, which has every repository that was created, with its commits. It
can be configured to fail, to cut connections, and to send files of other sizes than it states.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml
from huggingface_hub import constants

TOKEN = "hf_local"


@dataclass
class FakeRepo:
    """A repository.

    Args:
        private: Whether only the token's owner sees it.
        branches: Commit of each branch.
        commits: Files of each commit, by name.
        messages: Messages of the commits that were pushed.
    """

    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Add a commit to a branch, and return its hash."""
        parent = self.branches.get(branch, "")
        content = {**self.commits.get(parent, {}), **files}
        oid = hashlib.sha1(repr((parent, sorted(content.items()), len(self.commits))).encode()).hexdigest()
        self.commits[oid] = content
        self.branches[branch] = oid
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The files of a branch or commit."""
        return self.commits[self.branches.get(revision, revision)]


@dataclass
class FakeHub:
    """The server's state.

    Args:
        url: URL of the server.
        repos: Repositories by `<user>/<name>`.
        stored: Content of large files, by hash.
        requests: Method and path of every request.
        status: HTTP status of every response, if not 200.
        sends: Content that is sent in the place of a file's, by name; its stated size stays that of the file.
        states: Size that is stated in the place of a file's own, by name.
        cuts: Names of files in whose middle the connection is cut.
    """

    url: str = ""
    repos: dict[str, FakeRepo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    status: int = 200
    sends: dict[str, bytes] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    cuts: set[str] = field(default_factory=set)

    def add(self, repo: str, folder: Path) -> FakeRepo:
        """Add a repository with the files of a folder."""
        made = self.repos.setdefault(repo, FakeRepo())
        made.commit("main", {path.name: path.read_bytes() for path in folder.iterdir()})
        return made


@contextmanager
def fake_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[FakeHub]:
    """Run a server within the context, and point the client in this process to it, with empty caches."""
    state = FakeHub()

    class Handler(_Handler):
        hub = state

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", state.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", state.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # The hub's own storage, Xet, has a client in Rust and servers of its own; without it, files go to Git LFS.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        # What fails is tried again after some seconds.
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        try:
            yield state
        finally:
            server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *arguments: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.status != 200:
            self._send(self.hub.status, {})
            return
        if self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
            self._send(401, {}, {"X-Error-Message": "Invalid credentials in Authorization header"})
            return
        for pattern, answer in _ROUTES.items():
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                answer(self, body, *found.groups())
                return
        self._send(404, {})

    def _send(self, status: int, body: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def create_repo(self, body: bytes) -> None:
        given = json.loads(body)
        name = f"{given['organization']}/{given['name']}"
        if name in self.hub.repos:
            self._send(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
            return
        self.hub.repos[name] = FakeRepo(private=given.get("visibility") == "private")
        self.hub.repos[name].commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._send(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def repo_info(self, body: bytes, name: str) -> None:
        if repo := self._repo(name):
            self._send(200, {"id": name, "sha": repo.branches["main"], "private": repo.private, "siblings": []})

    def create_branch(self, body: bytes, name: str, branch: str) -> None:
        if repo := self._repo(name):
            is_new = branch not in repo.branches
            repo.branches.setdefault(branch, repo.branches["main"])
            self._send(200 if is_new else 409, {})

    def validate_yaml(self, body: bytes) -> None:
        header = json.loads(body)["content"].split("---\n")[1]
        assert isinstance(yaml.safe_load(header), dict)
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for one in json.loads(body)["files"]
        ]
        self._send(200, {"files": files})

    def lfs_batch(self, body: bytes, name: str) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.stored[oid] = body
        self._send(200, {})

    def commit(self, body: bytes, name: str, branch: str) -> None:
        repo = self.hub.repos[name]
        files: dict[str, bytes] = {}
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repo.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.hub.stored[value["oid"]]
        oid = repo.commit(branch, files)
        self._send(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def resolve(self, body: bytes, name: str, revision: str, filename: str) -> None:
        repo = self._repo(name)
        if repo is None:
            return
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            self._send(404, {}, {"X-Error-Code": "RevisionNotFound"})
        elif filename not in repo.commits[commit]:
            self._send(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        else:
            self._send_file(commit, filename, repo.commits[commit][filename])

    def _send_file(self, commit: str, filename: str, content: bytes) -> None:
        size = self.hub.states.get(filename, len(content))
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if self.command == "HEAD":
            self._send(200, b"", {**headers, "Content-Length": str(size)})
            return
        sent = self.hub.sends.get(filename, content)
        self.send_response(200)
        for key, value in headers.items():
            self.send_header(key, value)
        # Without a length, the body ends with the connection: the client cannot know how much will come.
        if filename in self.hub.cuts:
            self.send_header("Content-Length", str(len(sent)))
            sent = sent[: len(sent) // 2]
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wfile.write(sent)

    def _repo(self, name: str) -> FakeRepo | None:
        """The repository, if the request may see it; otherwise the refusal is sent."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.headers.get("Authorization") is None):
            self._send(404 if self.headers.get("Authorization") else 401, {}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repo


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = {
    r"POST /api/repos/create": _Handler.create_repo,
    rf"GET /api/models/{_NAME}": _Handler.repo_info,
    rf"POST /api/models/{_NAME}/branch/(.+)": _Handler.create_branch,
    r"POST /api/validate-yaml": _Handler.validate_yaml,
    rf"POST /api/models/{_NAME}/preupload/(.+)": _Handler.preupload,
    rf"POST /{_NAME}\.git/info/lfs/objects/batch": _Handler.lfs_batch,
    r"PUT /lfs/(\w+)": _Handler.upload,
    rf"POST /api/models/{_NAME}/commit/(.+)": _Handler.commit,
    rf"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/(.+)": _Handler.resolve,
}
