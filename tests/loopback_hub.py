"""A small honest Hub on loopback: repositories with commits, branches, tags, pull requests and large files.

It stores what it is sent only after it has checked sizes and hashes, and refuses what the Hub refuses: commits on
another parent, files that were never uploaded, readers and writers without the right token. Failures can be ordered.
"""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN, READ_TOKEN = "hf_notarealtoken", "hf_notarealreadtoken"
LARGE = 10_000
BINARY = (".safetensors", ".png", ".bin")


def git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Commit:
    parent: str | None
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    proposals: list[tuple[str, str]] = field(default_factory=list)  # title and head of each pull request
    large: dict[str, bytes] = field(default_factory=dict)  # by SHA-256

    def __post_init__(self) -> None:
        self.branches["main"] = self.add(None, "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})

    def add(self, parent: str | None, message: str, files: dict[str, bytes]) -> str:
        text = repr((parent, message, sorted((name, git_name(content)) for name, content in files.items())))
        sha = hashlib.sha1(f"{len(self.commits)}{text}".encode()).hexdigest()
        self.commits[sha] = Commit(parent, message, files)
        return sha

    def resolve(self, revision: str) -> str | None:
        if revision.startswith("refs/pr/"):
            number = int(revision.removeprefix("refs/pr/"))
            return self.proposals[number - 1][1] if 0 < number <= len(self.proposals) else None
        known = self.branches | self.tags
        return known.get(revision.removeprefix("refs/heads/"), revision if revision in self.commits else None)

    def history(self, revision: str) -> list[str]:
        shas, sha = [], self.resolve(revision)
        while sha is not None:
            shas.append(sha)
            sha = self.commits[sha].parent
        return shas


@dataclass
class Failure:
    """What happens to requests whose path has a part: an answer of this status, or without one a cut line."""

    part: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    times: int | None = None  # None: always
    is_done: bool = False  # whether the request is carried out before the line is cut


class LoopbackHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lock = threading.RLock()
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.failures: list[Failure] = []
        self.tokens = {TOKEN: True, READ_TOKEN: False}  # whether each may write
        self.slow_parts: dict[str, float] = {}  # seconds that requests with such a part of a path take
        self.stored: list[str] = []  # the SHA-256 of each large file that was received

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing about clients that went away."""

    def paths(self) -> list[str]:
        return [f"{method} {path}" for method, path, _, _ in self.requests]

    def bodies(self, part: str) -> list[bytes]:
        return [body for _, path, _, body in self.requests if part in path]

    def commits(self, name: str = "me/model", revision: str = "main") -> list[dict[str, bytes]]:
        """The files after each commit of a branch, the oldest first, without the one that made the repository."""
        repository = self.repositories[name]
        shas = repository.history(revision)[-2::-1]
        return [
            {name: content for name, content in repository.commits[sha].files.items() if name != ".gitattributes"}
            for sha in shas
        ]

    def edit(self, text: bytes, name: str = "me/model") -> None:
        """Somebody writes a card on the website."""
        repository = self.repositories.setdefault(name, Repository(private=False))
        head = repository.branches["main"]
        files = repository.commits[head].files | {"README.md": text}
        repository.branches["main"] = repository.add(head, "Update README.md", files)


class Handler(BaseHTTPRequestHandler):
    server: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        sent = {"Content-Type": "application/json", "Content-Length": str(len(data))} | (headers or {})
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, reason: str, code: str | None = None) -> None:
        headers = {"X-Error-Message": reason} | ({"X-Error-Code": code} if code else {})
        self.answer(status, {"error": reason, "errors": [{"message": reason}]}, headers)

    def cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if path == "/api/agent-harnesses":  # a public list that the client asks for at times, of its own accord
            return self.answer(404, {})
        for part, seconds in self.server.slow_parts.items():
            if part in self.path:
                time.sleep(seconds)
        body = self.body()
        with self.server.lock:
            self.server.requests.append((self.command, path, dict(self.headers), body))
            for failure in self.server.failures:
                if failure.part in path and failure.times != 0:
                    failure.times = None if failure.times is None else failure.times - 1
                    if failure.status is not None:
                        reason = f"no such luck, {self.headers['Authorization']}"  # a careless server
                        content = {"error": reason, "errors": [{"message": reason}]}
                        return self.answer(failure.status, content, failure.headers)
                    if failure.is_done:
                        self.answer = lambda *_arguments, **_options: None  # type: ignore[method-assign]
                        self.route(path, query, body)
                    return self.cut()
            return self.route(path, query, body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815

    def route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        words = path.strip("/").split("/")
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        if token is not None and token not in self.server.tokens and not path.startswith("/large/"):
            return self.refuse(401, "Invalid credentials")
        may_write = token is not None and self.server.tokens.get(token, False)
        if words[0] == "large":
            return self.store(words[1:], body)
        if path == "/api/repos/create":
            return self.create(json.loads(body), may_write=may_write)
        if path == "/api/validate-yaml":
            text = json.loads(body)["content"]
            try:
                metadata = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else {}
            except (yaml.YAMLError, IndexError) as error:
                return self.answer(200, {"errors": [{"message": str(error)}], "warnings": []})
            errors = [] if isinstance(metadata, dict) else [{"message": "no mapping"}]
            return self.answer(200, {"errors": errors, "warnings": []})
        if path == "/api/whoami-v2":
            return self.answer(200, {"name": "me", "type": "user"}) if token else self.refuse(401, "no token")
        is_api = words[:2] == ["api", "models"]
        name = "/".join(words[2:4] if is_api else words[:2]).removesuffix(".git")
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and token is None):
            return self.refuse(401 if token is None else 404, "Repository not found", "RepoNotFound")
        if "resolve" in words:
            return self.send_file(repository, "/".join(words[3:]))
        if words[-4:] == ["info", "lfs", "objects", "batch"]:
            return self.batch(name, repository, json.loads(body), may_write=may_write or self.is_proposing(repository))
        return self.of_repository(name, repository, words[4:], query, body, may_write=may_write)

    def is_proposing(self, repository: Repository) -> bool:
        return not repository.private and "Authorization" in self.headers

    def create(self, asked: dict[str, Any], *, may_write: bool) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if not may_write or not name.startswith("me/"):
            return self.refuse(403, f"You don't have the rights to create a model under {name.split('/')[0]}")
        if name in self.server.repositories:
            reason = "You already created this model repo"
            return self.answer(409, {"error": reason, "url": f"{self.server.url}/{name}"}, {"X-Error-Message": reason})
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.server.repositories[name] = Repository(private)
        return self.answer(200, {"url": f"{self.server.url}/{name}", "id": name, "name": name})

    def of_repository(
        self,
        name: str,
        repository: Repository,
        words: list[str],
        query: dict[str, list[str]],
        body: bytes,
        *,
        may_write: bool,
    ) -> None:
        """Requests below /api/models/OWNER/NAME."""
        verb, rest = (words[0], "/".join(words[1:])) if words else ("", "")
        if verb in ("", "revision"):
            return self.describe(name, repository, rest or "main")
        if verb == "refs":
            refs = [
                [{"name": each, "ref": f"refs/{kind}/{each}", "targetCommit": sha} for each, sha in named.items()]
                for kind, named in (("heads", repository.branches), ("tags", repository.tags))
            ]
            return self.answer(200, {"branches": refs[0], "tags": refs[1], "converts": []})
        if verb == "commits":
            return self.answer(
                200,
                [
                    {"id": sha, "title": repository.commits[sha].message, "message": "", "authors": []}
                    | {"date": "2026-01-01T00:00:00.000Z"}
                    for sha in repository.history(rest)
                ],
            )
        if verb == "discussions":
            proposals = [
                {
                    "title": title,
                    "num": number,
                    "author": {"name": "me"},
                    "repo": {"name": name, "type": "model"},
                    "isPullRequest": True,
                    "status": "open",
                    "createdAt": "2026-01-01T00:00:00.000Z",
                }
                for number, (title, _) in enumerate(repository.proposals, start=1)
            ]
            return self.answer(200, {"discussions": proposals, "count": len(proposals), "start": 0})
        if verb in ("tree", "paths-info"):
            return self.list_files(repository, verb, rest, body)
        if [verb, rest] == ["auth-check", "write"] and may_write and name.startswith("me/"):
            return self.answer(200, {})
        creates_pr = query.get("create_pr") == ["1"] and self.is_proposing(repository)
        if not (may_write or creates_pr) or verb == "auth-check":
            return self.refuse(403, "Forbidden: pass a token with write access")
        if verb == "preupload":
            return self.tell_modes(repository, rest, json.loads(body))
        if verb == "commit":
            return self.commit(name, repository, rest, body, creates_pr=creates_pr)
        if verb == "branch":
            start = (json.loads(body) if body else {}).get("startingPoint", "main")
            if rest in repository.branches:
                return self.refuse(409, "Reference already exists")
            repository.branches[rest] = str(repository.resolve(start))
            return self.answer(200, {})
        if verb == "tag":
            tag = json.loads(body)["tag"]
            if tag in repository.tags:
                return self.refuse(409, "Tag reference exists already")
            repository.tags[tag] = str(repository.resolve(rest))
            return self.answer(200, {})
        return self.refuse(500, f"the loopback Hub does not know {self.path}")

    def describe(self, name: str, repository: Repository, revision: str) -> None:
        sha = repository.resolve(revision)
        if sha is None:
            return self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        siblings = [{"rfilename": path} for path in sorted(repository.commits[sha].files)]
        info = {"id": name, "modelId": name, "private": repository.private, "sha": sha, "siblings": siblings}
        files = repository.commits[sha].files
        if "config.json" in files:
            config = json.loads(files["config.json"])
            kept = {key: config[key] for key in ("architectures", "model_type", "auto_map") if config.get(key)}
            info |= {"config": kept, "library_name": "transformers"}
        return self.answer(200, info | {"tags": [], "downloads": 0, "likes": 0})

    def tell_modes(self, repository: Repository, revision: str, asked: dict[str, Any]) -> None:
        sha = repository.resolve(revision)
        if sha is None:
            return self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        there, modes = repository.commits[sha].files, []
        for file in asked["files"]:
            path = file["path"]
            is_large = file["size"] > LARGE or path.endswith(BINARY)
            mode = {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
            if path in there:
                mode["oid"] = hashlib.sha256(there[path]).hexdigest() if is_large else git_name(there[path])
            modes.append(mode)
        return self.answer(200, {"files": modes})

    def batch(self, name: str, repository: Repository, asked: dict[str, Any], *, may_write: bool) -> None:
        if not may_write:
            return self.refuse(403, "Forbidden: pass a token with write access")
        objects = []
        for each in asked["objects"]:
            place = f"{self.server.url}/large/{name}/{each['oid']}/{each['size']}"
            actions = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
            objects.append(each | ({} if each["oid"] in repository.large else {"actions": actions}))
        return self.answer(200, {"objects": objects, "transfer": "basic"})

    def store(self, words: list[str], body: bytes) -> None:
        """Take a large file, if it is what was announced; or say whether it is here."""
        repository, oid, size = self.server.repositories["/".join(words[:2])], words[2], int(words[3])
        if words[-1] == "verify":
            return self.answer(200, {}) if oid in repository.large else self.refuse(404, "not uploaded")
        if len(body) != size or hashlib.sha256(body).hexdigest() != oid:
            return self.refuse(400, f"{len(body)} bytes that are not {oid} of {size} bytes")
        repository.large[oid] = body
        self.server.stored.append(oid)
        return self.answer(200, {})

    def commit(self, name: str, repository: Repository, branch: str, body: bytes, *, creates_pr: bool) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        header, head = lines[0]["value"], repository.resolve(branch)
        assert lines[0]["key"] == "header"
        if head is None:
            return self.refuse(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        if header.get("parentCommit") not in (None, head):
            return self.refuse(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[head].files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in repository.large or len(repository.large[value["oid"]]) != value["size"]:
                    return self.refuse(422, f"{value['path']} was not uploaded")
                files[value["path"]] = repository.large[value["oid"]]
            elif line["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    return self.refuse(400, f"there is no {value['path']} to delete")
            else:
                return self.refuse(500, f"the loopback Hub does not know {line['key']}")
        sha = repository.add(head, header["summary"], files)
        answer = {"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha, "success": True}
        if creates_pr:
            repository.proposals.append((header["summary"], sha))
            answer["pullRequestUrl"] = f"{self.server.url}/{name}/discussions/{len(repository.proposals)}"
        else:
            repository.branches[branch] = sha
        return self.answer(200, answer)

    def list_files(self, repository: Repository, verb: str, revision: str, body: bytes) -> None:
        asked = None
        if verb == "paths-info":
            values = parse_qs(body.decode())
            asked = values["paths"] if "paths" in values else json.loads(body)["paths"]
            folder = ""
        else:
            revision, _, folder = revision.partition("/")
        sha = repository.resolve(revision)
        if sha is None:
            return self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        found = []
        for path, content in repository.commits[sha].files.items():
            if (asked is not None and path not in asked) or not path.startswith(folder):
                continue
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_name(content)}
            oid = hashlib.sha256(content).hexdigest()
            if oid in repository.large:
                entry["lfs"] = {"oid": oid, "sha256": oid, "size": len(content), "pointerSize": 134}
            found.append(entry)
        if verb == "tree" and folder and not found:
            return self.refuse(404, f"{folder} does not exist", "EntryNotFound")
        return self.answer(200, found)

    def send_file(self, repository: Repository, place: str) -> None:
        known = [*repository.branches, *repository.tags, *repository.commits]
        revision = next((one for one in known if place.startswith(f"{one}/")), None)
        if revision is None:
            return self.refuse(404, "Invalid rev id", "RevisionNotFound")
        sha, path = str(repository.resolve(revision)), place.removeprefix(f"{revision}/")
        content = repository.commits[sha].files.get(path)
        if content is None:
            return self.answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        oid = hashlib.sha256(content).hexdigest()
        etag = oid if oid in repository.large else git_name(content)
        return self.answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"})


@contextmanager
def serving() -> Iterator[LoopbackHub]:
    """A Hub that runs until the block ends."""
    with LoopbackHub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
