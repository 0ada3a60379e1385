"""A hub on the loopback interface: enough of the hub's HTTP interface to push and pull without a network.

`HF_ENDPOINT`, `HF_HOME` and `HF_TOKEN` are read when Hugging Face libraries are imported, so code that talks to this
server runs in a fresh interpreter: `hub_server.run(source)`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import pytest
import yaml


TOKEN = "hf_loopback"
USER = "me"


class _Repo:
    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: dict[str, dict[str, bytes]] = {}
        self.messages: list[str] = []
        self.branches: dict[str, str] = {"main": self.add_commit({}, "initial commit")}

    def add_commit(self, files: dict[str, bytes], message: str) -> str:
        content = json.dumps([message, len(self.commits), {name: len(data) for name, data in files.items()}])
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        return sha

    def resolve(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None


def _blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _HubError(Exception):
    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.status, self.code, self.message = status, code, message or code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *args: Any) -> None:  # keep the test output quiet
        pass

    def _answer(self, status: int = 200, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        if not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        url = urlparse(self.path)
        self.hub.requests.append(f"{self.command} {self.path}")
        try:
            with self.hub.lock:
                for method, pattern, function in _ROUTES:
                    match = re.fullmatch(pattern, url.path)
                    if match and self.command in method.split("|"):
                        groups = [None if value is None else unquote(value) for value in match.groups()]
                        function(self, body, parse_qs(url.query), *groups)
                        return
            raise _HubError(404, "RepoNotFound", f"no route for {self.command} {url.path}")
        except _HubError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
            self._answer(error.status, {"error": error.message}, headers)

    do_GET = do_POST = do_HEAD = do_DELETE = _handle

    def _is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repo(self, repo_id: str, write: bool = False) -> _Repo:
        repo = self.hub.repos.get(repo_id)
        if repo is None or ((repo.private or write) and not self._is_owner()):
            raise _HubError(404 if self._is_owner() else 401, "RepoNotFound", f"repository {repo_id} not found")
        return repo

    def _commit(self, repo_id: str, revision: str | None) -> tuple[_Repo, str]:
        repo = self._repo(repo_id)
        sha = repo.resolve(revision or "main")
        if sha is None:
            raise _HubError(404, "RevisionNotFound", f"revision {revision} not found")
        return repo, sha

    def whoami(self, body: bytes, query: dict) -> None:
        if not self._is_owner():
            raise _HubError(401, "Unauthorized")
        self._answer(body={"type": "user", "name": USER, "auth": {"accessToken": {"role": "write"}}, "orgs": []})

    def create(self, body: bytes, query: dict) -> None:
        if not self._is_owner():
            raise _HubError(401, "Unauthorized")
        asked = json.loads(body)
        repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
        answer = {"url": f"{self.hub.endpoint}/{repo_id}", "name": repo_id, "id": repo_id}
        if repo_id in self.hub.repos:
            self._answer(409, answer)
            return
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.repos[repo_id] = _Repo(private)
        self._answer(body=answer)

    def validate_yaml(self, body: bytes, query: dict) -> None:
        content = json.loads(body)["content"]
        match = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
        try:
            data = yaml.safe_load(match.group(1)) if match else {}
            errors = [] if isinstance(data, dict) else ["metadata is not a mapping"]
        except yaml.YAMLError as error:
            errors = [str(error)]
        if match and not errors and "model-index" in data:
            errors += [
                f"model-index entry without {key}"
                for entry in data["model-index"]
                for key in ("name", "results")
                if key not in entry
            ]
        status = 400 if errors else 200
        self._answer(status, {"errors": [{"message": error} for error in errors], "warnings": []})

    def preupload(self, body: bytes, query: dict, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id, write=True)
        files = repo.commits[repo.resolve(revision) or repo.branches["main"]]
        answer = []
        for file in json.loads(body)["files"]:
            old = files.get(file["path"])
            oid = None if old is None else _blob_id(old)
            answer.append({"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": oid})
        self._answer(body={"files": answer})

    def commit(self, body: bytes, query: dict, repo_id: str, revision: str) -> None:
        repo = self._repo(repo_id, write=True)
        if revision not in repo.branches:
            raise _HubError(404, "RevisionNotFound", f"branch {revision} not found")
        files = dict(repo.commits[repo.branches[revision]])
        message = ""
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise _HubError(404, "EntryNotFound", "A file with this name doesn't exist")
            elif entry["key"] == "deletedFolder":
                prefix = value["path"].rstrip("/") + "/"
                files = {name: data for name, data in files.items() if not name.startswith(prefix)}
            else:
                raise _HubError(400, "BadRequest", f"this server takes no {entry['key']} operation")
        sha = repo.branches[revision] = repo.add_commit(files, message)
        self._answer(body={"commitUrl": f"{self.hub.endpoint}/{repo_id}/commit/{sha}", "commitOid": sha})

    def branch(self, body: bytes, query: dict, repo_id: str, branch: str) -> None:
        repo = self._repo(repo_id, write=True)
        if branch in repo.branches:
            self._answer(409, {"error": "Reference already exists"})
            return
        start = (json.loads(body) if body else {}).get("startingPoint", "main")
        repo.branches[branch] = repo.resolve(start) or repo.branches["main"]
        self._answer(201)

    def refs(self, body: bytes, query: dict, repo_id: str) -> None:
        repo = self._repo(repo_id)
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repo.branches.items()]
        self._answer(body={"branches": branches, "converts": [], "tags": []})

    def info(self, body: bytes, query: dict, repo_id: str, revision: str | None = None) -> None:
        repo, sha = self._commit(repo_id, revision)
        siblings = [{"rfilename": name} for name in sorted(repo.commits[sha])]
        answer = {"_id": repo_id, "id": repo_id, "modelId": repo_id, "author": repo_id.split("/")[0], "sha": sha}
        self._answer(body={**answer, "private": repo.private, "tags": [], "siblings": siblings})

    def _entry(self, name: str, data: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(data), "oid": _blob_id(data)}

    def tree(self, body: bytes, query: dict, repo_id: str, revision: str, folder: str | None = None) -> None:
        repo, sha = self._commit(repo_id, revision)
        prefix = f"{folder}/" if folder else ""
        entries, folders = [], set()
        for name, data in sorted(repo.commits[sha].items()):
            if not name.startswith(prefix):
                continue
            rest = name[len(prefix) :]
            if "/" in rest and query.get("recursive", ["false"])[0].lower() != "true":
                folders.add(prefix + rest.split("/")[0])
            else:
                entries.append(self._entry(name, data))
        entries += [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)]
        self._answer(body=entries)

    def paths_info(self, body: bytes, query: dict, repo_id: str, revision: str) -> None:
        repo, sha = self._commit(repo_id, revision)
        if "json" in (self.headers.get("Content-Type") or ""):
            paths = json.loads(body)["paths"]
        else:
            paths = parse_qs(body.decode()).get("paths", [])
        files = repo.commits[sha]
        self._answer(body=[self._entry(path, files[path]) for path in paths if path in files])

    def resolve(self, body: bytes, query: dict, repo_id: str, revision: str, name: str) -> None:
        repo, sha = self._commit(repo_id, revision)
        data = repo.commits[sha].get(name)
        if data is None:
            raise _HubError(404, "EntryNotFound", f"no file {name} in {repo_id}")
        headers = {"X-Repo-Commit": sha, "ETag": f'"{_blob_id(data)}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            self._answer(206, data[start : end + 1], headers)
        else:
            self._answer(200, data, headers)


_ID = r"([^/]+/[^/]+)"
_ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("POST", f"/api/models/{_ID}/preupload/([^/]+)", _Handler.preupload),
    ("POST", f"/api/models/{_ID}/commit/([^/]+)", _Handler.commit),
    ("POST", f"/api/models/{_ID}/branch/([^/]+)", _Handler.branch),
    ("POST", f"/api/models/{_ID}/paths-info/([^/]+)", _Handler.paths_info),
    ("GET", f"/api/models/{_ID}/refs", _Handler.refs),
    ("GET", f"/api/models/{_ID}/tree/([^/]+)(?:/(.+))?", _Handler.tree),
    ("GET", f"/api/models/{_ID}/revision/([^/]+)", _Handler.info),
    ("GET", f"/api/models/{_ID}", _Handler.info),
    ("GET|HEAD", f"/{_ID}/resolve/([^/]+)/(.+)", _Handler.resolve),
]


class LoopbackHub:
    """The running server and what was pushed to it.

    Attributes:
        endpoint (`str`): address for `HF_ENDPOINT`.
        repos (`dict`): what is stored, by `user/name`.
        requests (`list[str]`): every request, as `METHOD path`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repos: dict[str, _Repo] = {}
        self.requests: list[str] = []
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository by name."""
        repo = self.repos[repo_id]
        sha = repo.resolve(revision)
        if sha is None:
            raise KeyError(f"{repo_id} has no revision {revision}")
        return repo.commits[sha]

    def is_private(self, repo_id: str) -> bool:
        """Whether the repository was made private."""
        return self.repos[repo_id].private

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that talks to this server and to nothing else."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        root = str(Path(__file__).resolve().parents[2])
        return {
            **kept,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.folder / "hf_home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "DO_NOT_TRACK": "1",
            "NO_COLOR": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([root, os.path.join(root, "tests"), os.environ.get("PYTHONPATH", "")]),
        }

    def command(self, *arguments: str, timeout: float = 120) -> str:
        """Run a command against this server; its standard output. Raises with the error output when it fails."""
        done = subprocess.run(
            arguments, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode != 0:
            raise AssertionError(f"exit code {done.returncode} from {arguments[:2]}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def run(self, source: str, timeout: float = 120) -> str:
        """Run Python source in a fresh interpreter against this server; its standard output."""
        return self.command(sys.executable, "-c", source, timeout=timeout)

    def close(self) -> None:
        """Stop the server."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="session")
def hub_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """A loopback hub for the whole session: give every test a repository name of its own."""
    hub = LoopbackHub(tmp_path_factory.mktemp("loopback_hub"))
    yield hub
    hub.close()
