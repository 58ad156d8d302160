"""A Hub on this machine: as much of its API as the real clients ask for, and every way in which it can fail.

    with StandInHub({"owner/name": Repo({"et/test.jsonl": b"..."})}) as hub:
        hub.mode = "gated"
        hub.url    # what HF_ENDPOINT has to say

It serves GitHub's raw files too, under /owner/name/<commit>/<path>.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "1" * 40


@dataclass
class Repo:
    """Files of a data set at a commit; `listed` replaces the names that the Hub claims to have."""

    files: dict[str, bytes]
    commit: str = COMMIT
    listed: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        return self.listed or list(self.files)


class StandInHub:
    """A server thread.

    mode: ok, slow, error, unavailable, renamed, moved, gated, no_token, bad_token, files_error, short, cut, drip.
    """

    def __init__(self, repos: dict[str, Repo]) -> None:
        self.repos = repos
        self.mode = "ok"
        self.moved_to = "owner/new-name"
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Authorization
        self.stopped = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_POST = do_GET

            def log_message(self, *_: Any) -> None:
                """Nothing on stderr."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> StandInHub:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()

    # --- answers ------------------------------------------------------------------------------------------------

    def answer(self, asked: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(asked.path).path)
        self.requests.append((asked.command, path, asked.headers.get("Authorization")))
        size = int(asked.headers.get("Content-Length") or 0)
        body = asked.rfile.read(size) if size else b""
        if self.mode == "slow":
            self.stopped.wait(20)
            return
        if (refused := self._refusal(path)) is not None:
            code, headers = refused
            send(asked, code, b"{}", headers)
            return
        for pattern, method in self._routes():
            if found := re.fullmatch(pattern, path):
                method(asked, body, *found.groups())
                return
        send(asked, 404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _refusal(self, path: str) -> tuple[int, dict[str, str]] | None:
        resolves = "/resolve/" in path
        if self.mode in ("error", "unavailable"):
            return (500 if self.mode == "error" else 503), {}
        if self.mode == "files_error" and resolves:
            return 503, {}
        if self.mode == "gated":  # the page about a gated data set can be read, its files can't
            return (403, {"X-Error-Code": "GatedRepo"}) if resolves else None
        if self.mode == "no_token":
            return 401, {"X-Error-Code": "GatedRepo"}
        if self.mode == "bad_token":
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}
        if self.mode in ("renamed", "moved") and "owner/name" in path:
            code = 307 if self.mode == "renamed" else 301
            return code, {"Location": self.url + path.replace("owner/name", self.moved_to)}
        return None

    def _routes(self) -> list[tuple[str, Callable[..., None]]]:
        name, revision = r"([\w.-]+/[\w.-]+)", "([^/]+|refs/convert/parquet)"
        return [
            (f"/api/datasets/{name}", self._info),
            (f"/api/datasets/{name}/revision/{revision}", self._info),
            (f"/api/datasets/{name}/tree/{revision}(?:/(.*))?", self._tree),
            (f"/api/datasets/{name}/paths-info/{revision}", self._paths),
            (f"/datasets/{name}/resolve/{revision}/(.+)", self._file),
            (rf"/{name}/([0-9a-f]{{40}})/(.+)", self._file),
        ]

    def _repo(self, asked: BaseHTTPRequestHandler, name: str, revision: str) -> Repo | None:
        repo = self.repos.get(name)
        if repo is None:
            send(asked, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", repo.commit):
            send(asked, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            return repo
        return None

    def _info(self, asked: BaseHTTPRequestHandler, _: bytes, name: str, revision: str = "main") -> None:
        if (repo := self._repo(asked, name, revision)) is not None:
            siblings = [{"rfilename": file} for file in repo.names()]
            send_json(asked, {"id": name, "sha": repo.commit, "siblings": siblings, "tags": [], "private": False})

    def _tree(self, asked: BaseHTTPRequestHandler, _: bytes, name: str, revision: str, folder: str | None) -> None:
        if (repo := self._repo(asked, name, revision)) is None:
            return
        prefix = f"{folder}/" if folder else ""
        inside = [file for file in repo.names() if file.startswith(prefix)]
        rows = [entry(repo, file) for file in inside if "/" not in file[len(prefix) :]]
        folders = dict.fromkeys(
            prefix + file[len(prefix) :].split("/")[0] for file in inside if "/" in file[len(prefix) :]
        )
        send_json(asked, rows + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders])

    def _paths(self, asked: BaseHTTPRequestHandler, body: bytes, name: str, revision: str) -> None:
        if (repo := self._repo(asked, name, revision)) is not None:
            text = body.decode()
            wanted = json.loads(text)["paths"] if text.startswith("{") else re.findall(r"paths=([^&]+)", text)
            wanted = [unquote(path) for path in ([wanted] if isinstance(wanted, str) else wanted)]
            send_json(asked, [entry(repo, path) for path in wanted if path in repo.names()])

    def _file(self, asked: BaseHTTPRequestHandler, _: bytes, name: str, revision: str, file: str) -> None:
        if (repo := self._repo(asked, name, revision)) is None:
            return
        if file not in repo.files:
            send(asked, 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.commit})
            return
        content = repo.files[file]
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if asked.command == "GET" and file.endswith((".jsonl", ".tsv", ".txt")) and self.mode in ("short", "cut"):
            claimed = len(content) // 2 if self.mode == "short" else len(content)  # cut: the connection ends too early
            send(asked, 200, content[: len(content) // 2], headers, claimed)
            asked.close_connection = True
            return
        if asked.command == "GET" and self.mode == "drip":
            send(asked, 200, b"", headers, len(content))
            for byte in content:
                asked.wfile.write(bytes([byte]))
                if self.stopped.wait(0.2):
                    return
        send(asked, 200, content, headers)


def entry(repo: Repo, file: str) -> dict[str, Any]:
    """A file as the Hub lists it."""
    content = repo.files.get(file, b"")
    return {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def send_json(asked: BaseHTTPRequestHandler, value: Any) -> None:
    send(asked, 200, json.dumps(value).encode(), {"Content-Type": "application/json"})


def send(
    asked: BaseHTTPRequestHandler, code: int, body: bytes, headers: dict[str, str], claimed: int | None = None
) -> None:
    asked.send_response(code)
    for name, value in headers.items():
        asked.send_header(name, value)
    asked.send_header("Content-Length", str(len(body) if claimed is None else claimed))
    asked.end_headers()
    if asked.command != "HEAD":
        asked.wfile.write(body)
