import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from test_card import ARGUMENTS, CONFIG, PRETRAINED, write_run

from hf_minibert.errors import UserError
from hf_minibert.files import Manifest
from hf_minibert.hub.card import render_card, write_card
from hf_minibert.hub.publish import files_to_publish, prepare_upload, publish

TOKEN = "hf_notarealtoken"
PARENT = "abcdef0123" * 4
SCRIPT = Path(__file__).parents[2] / "scripts" / "push_to_hub.py"
PUBLISHED = {
    "README.md",
    "arguments.json",
    "config.json",
    "configuration_minibert.py",
    "curves.png",
    "generation_config.json",
    "metrics.jsonl",
    "model.safetensors",
    "modeling_minibert.py",
    "modeling_transformer.py",
    "results.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


class MockHub(ThreadingHTTPServer):
    """The part of the Hub that an upload talks to; it keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), MockHubHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.failures: dict[str, int] = {}  # a part of a path -> the status to answer with
        self.is_private = False
        self.card: bytes | None = None

    def paths(self) -> list[str]:
        return [f"{method} {path}" for method, path, _, _ in self.requests]

    def bodies(self, part: str) -> list[bytes]:
        return [body for _, path, _, body in self.requests if part in path]

    def commits(self) -> list[dict[str, bytes]]:
        """The files of every commit."""
        commits = []
        for body in self.bodies("/commit/"):
            lines = [json.loads(line) for line in body.splitlines()]
            assert [line["key"] for line in lines] == ["header"] + ["file"] * (len(lines) - 1)
            commits.append({line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines[1:]})
        return commits


class MockHubHandler(BaseHTTPRequestHandler):
    server: MockHub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002, ARG002
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

    def answer(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_HEAD(self) -> None:  # noqa: N802
        self.answer_file(with_content=False)

    def answer_file(self, *, with_content: bool = True) -> None:
        """The card, as it is in the commit that is named."""
        assert self.path == f"/me/model/resolve/{PARENT}/README.md"
        assert self.server.card is not None
        self.send_response(200)
        self.send_header("ETag", hashlib.sha1(self.server.card).hexdigest())
        self.send_header("X-Repo-Commit", PARENT)
        self.send_header("Content-Length", str(len(self.server.card)))
        self.end_headers()
        if with_content:
            self.wfile.write(self.server.card)

    def do_POST(self) -> None:  # noqa: N802
        body = self.body()
        if self.path == "/api/agent-harnesses":  # a public list that the client asks for at times, of its own accord
            return self.answer(404, {})
        self.server.requests.append((self.command, self.path, dict(self.headers), body))
        for part, status in self.server.failures.items():
            if part in self.path:
                reason = f"no such luck, {self.headers['Authorization']}"  # a careless server
                return self.answer(status, {"error": reason, "errors": [{"message": reason}]})
        if self.path == "/api/repos/create":
            return self.answer(200, {"url": f"{self.server.url}/me/model"})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if self.path.startswith("/api/models/me/model/preupload/"):
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            return self.answer(200, {"files": modes})
        if self.path.startswith("/api/models/me/model/commit/"):
            oid = "0123456789" * 4
            return self.answer(200, {"commitUrl": f"{self.server.url}/me/model/commit/{oid}", "commitOid": oid})
        if self.path.startswith("/api/models/me/model/branch/"):
            return self.answer(200, {})
        if self.path == "/api/models/me/model" or self.path.startswith("/api/models/me/model/revision/"):
            info = {"id": "me/model", "private": self.server.is_private, "sha": PARENT}
            names = [".gitattributes"] + (["README.md"] if self.server.card is not None else [])
            return self.answer(200, info | {"siblings": [{"rfilename": name} for name in names]})
        if "/resolve/" in self.path:
            return self.answer_file()
        return self.answer(500, {"error": f"the mock does not know {self.path}"})

    do_GET = do_POST  # noqa: N815


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockHub]:
    with MockHub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        files = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"  # made of it when the client is imported
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run, and around it what must never be uploaded."""
    folder = write_run(tmp_path / "run", PRETRAINED)
    (folder / "generation_config.json").write_text("{}", encoding="utf-8")
    for name in (
        "checkpoint-10/model.safetensors",
        "checkpoint-10/optimizer.pt",
        "logs/events.out.tfevents.1",
        ".env",
        ".cache/secret",
        "optimizer.safetensors",
        "pytorch_model.bin",
        "training_args.bin",
        "scheduler.pt",
        "notes.txt",
        "README.generated.md",
        "unrelated.py",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("private", encoding="utf-8")
    return folder


def upload(folder: Path, *, token: str | None = TOKEN, private: bool = False, revision: str | None = None) -> str:
    return publish(folder, "me/model", token=token, private=private, revision=revision, commit_message="Upload a model")


def push(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | variables
    command = [sys.executable, str(SCRIPT), "--repo_id", "me/model", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_only_what_belongs_to_the_model_is_published(folder: Path):
    assert {path.name for path in files_to_publish(folder)} == PUBLISHED - {"README.md"}
    assert set(prepare_upload(folder, "me/model")) == PUBLISHED


def test_shards_are_published_with_their_index(folder: Path):
    (folder / "model.safetensors").unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / shards[0]).write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=f"names {shards[1]}, which is missing"):
        files_to_publish(folder)
    (folder / shards[1]).write_text("", encoding="utf-8")
    assert {"model.safetensors.index.json", *shards} <= {path.name for path in files_to_publish(folder)}


def test_one_commit_has_exactly_these_files(hub: MockHub, folder: Path):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    address = upload(folder)
    assert address.startswith(f"{hub.url}/me/model/commit/")
    (commit,) = hub.commits()
    assert set(commit) == PUBLISHED
    assert json.loads(commit["arguments.json"]) == ARGUMENTS | {"output_dir": "mini bert"}
    for name in PUBLISHED - {"README.md", "arguments.json"}:
        assert commit[name] == (folder / name).read_bytes()
    assert 'model="me/model"' in commit["README.md"].decode()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert json.loads(hub.bodies("/commit/")[0].splitlines()[0])["value"]["summary"] == "Upload a model"
    assert "POST /api/models/me/model/commit/main" in hub.paths()
    assert json.loads(hub.bodies("/commit/")[0].splitlines()[0])["value"]["parentCommit"] == PARENT


def test_the_token_travels_in_its_header_only(hub: MockHub, folder: Path):
    upload(folder)
    for _, path, headers, body in hub.requests:
        assert headers.pop("authorization", headers.pop("Authorization", None)) == f"Bearer {TOKEN}", path
        assert TOKEN not in path + str(headers)
        assert TOKEN.encode() not in body


def test_a_revision_is_a_branch(hub: MockHub, folder: Path):
    upload(folder, revision="step-10")
    assert "POST /api/models/me/model/branch/step-10" in hub.paths()
    assert [path for path in hub.paths() if "/commit/" in path] == ["POST /api/models/me/model/commit/step-10"]
    hub.failures = {"/branch/": 409}  # it exists
    upload(folder, revision="step-10")
    assert len(hub.commits()) == 2


def test_private_is_private_or_nothing_is_uploaded(hub: MockHub, folder: Path):
    with pytest.raises(UserError, match="me/model exists and is public"):
        upload(folder, private=True)
    assert not hub.commits()
    hub.is_private = True
    upload(folder, private=True)
    assert len(hub.commits()) == 1
    asked = json.loads(hub.bodies("/api/repos/create")[-1])
    assert asked.get("visibility") == "private" or asked.get("private") is True


def test_a_generated_card_is_renewed_and_an_edited_one_goes_up_as_it_is(hub: MockHub, folder: Path):
    readme = write_card(folder)
    upload(folder)
    readme.write_text("---\nlicense: mit\n---\nmine", encoding="utf-8")
    upload(folder)
    first, second = hub.commits()
    assert 'model="me/model"' in first["README.md"].decode()
    assert second["README.md"] == readme.read_bytes()


def test_a_card_that_was_edited_on_the_hub_stays(hub: MockHub, folder: Path, caplog: pytest.LogCaptureFixture):
    upload(folder)
    hub.card = hub.commits()[-1]["README.md"].replace(b"## Limits", b"## What I saw")
    upload(folder)
    commit = hub.commits()[-1]
    assert "README.md" not in commit
    assert 'model="me/model"' in commit["README.generated.md"].decode()
    assert "the card on the Hub was edited by hand and is kept" in caplog.text
    for untouched in (hub.commits()[0]["README.md"], render_card(folder, "me/other").encode()):
        hub.card = untouched
        upload(folder)
        assert "README.md" in hub.commits()[-1]


def test_a_card_that_was_edited_here_and_on_the_hub_is_not_uploaded(hub: MockHub, folder: Path):
    Manifest(folder, "pretrain", {}).write()
    readme = folder / "README.md"
    readme.write_text("My words.")
    upload(folder)
    hub.card = hub.commits()[-1]["README.md"]
    readme.write_text("My better words.")
    upload(folder)
    assert hub.commits()[-1]["README.md"] == b"My better words.", "nobody has edited it there"
    hub.card = b"Words of a colleague."
    with pytest.raises(UserError, match="was edited by hand and is not .*delete README.md on the Hub, and push again"):
        upload(folder)
    assert len(hub.commits()) == 2
    readme.write_bytes(hub.card)
    upload(folder)


def test_a_licence_that_the_website_asked_for_is_kept(hub: MockHub, folder: Path):
    hub.card = b"---\nlicense: gpl-3.0\n---\n"
    upload(folder)
    assert "license: gpl-3.0\n" in hub.commits()[-1]["README.md"].decode()


def test_an_edited_card_that_names_a_local_folder_is_pointed_out(folder: Path, caplog: pytest.LogCaptureFixture):
    readme = write_card(folder)
    readme.write_text(readme.read_text(encoding="utf-8") + "mine", encoding="utf-8")
    prepare_upload(folder, "me/model")
    assert f"names the local folder {folder}" in caplog.text


def test_a_licence_is_that_of_the_card(folder: Path):
    card = prepare_upload(folder, "me/model", "apache-2.0")["README.md"]
    assert isinstance(card, bytes)
    assert "license: apache-2.0\n" in card.decode()
    with pytest.raises(UserError, match="'Apache 2' is no identifier of the Hub's"):
        prepare_upload(folder, "me/model", "Apache 2")
    (folder / "README.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="edited by hand and is kept; write the licence there"):
        prepare_upload(folder, "me/model", "apache-2.0")


@pytest.mark.parametrize(
    ("part", "status", "message"),
    [
        ("/api/", 401, "does not accept the token"),
        ("/api/repos/create", 500, "status 500: no such luck"),
        ("/commit/", 403, "may not write to me/model"),
        ("/commit/", 412, "somebody has committed to me/model meanwhile; nothing was uploaded"),
        ("/preupload/", 404, "no me/model or no such --revision"),
        ("/api/validate-yaml", 400, "no such luck"),
    ],
)
def test_a_refusal_is_one_clear_error(hub: MockHub, folder: Path, part: str, status: int, message: str):
    hub.failures = {part: status}
    with pytest.raises(UserError, match=message) as caught:
        upload(folder)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_hub_that_does_not_answer_is_one_clear_error(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the Hub at http://127.0.0.1:9 does not answer .*HF_ENDPOINT"):
        upload(folder)


@pytest.mark.parametrize("end", ["\nmore", " ", "é", "\0"])
def test_a_malformed_token_is_not_quoted(hub: MockHub, folder: Path, end: str):
    with pytest.raises(UserError, match="the token for the Hub is malformed") as caught:
        upload(folder, token=TOKEN + end)
    assert TOKEN not in str(caught.value)
    assert not hub.requests


def test_without_a_token_nothing_is_sent(hub: MockHub, folder: Path):
    with pytest.raises(UserError, match="hf auth login.*HF_TOKEN"):
        upload(folder, token=None)
    assert not hub.requests


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_an_unfinished_checkpoint_is_refused(folder: Path, name: str):
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"is not a finished checkpoint: {name} missing; pytorch_model.bin is a pickle"):
        files_to_publish(folder)


NAMES = ["../../secret.txt", "../secret.safetensors", "sub/a.safetensors", "secret.txt", "", ".safetensors\n", 7, None]


@pytest.mark.parametrize("name", [*NAMES, "/etc/passwd", "/tmp/a.safetensors"])
def test_an_index_names_weights_of_its_folder_only(folder: Path, name: object):
    (folder / "model.safetensors").unlink()
    (folder.parent / "secret.safetensors").write_text("secret")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match="no .safetensors file in that folder|is not an index of weights") as caught:
        prepare_upload(folder, "me/model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../secret.Model", "/tmp/secret.Model", "me/other--modeling.Model", "a", 7, "a.b.c"])
def test_code_is_that_of_the_folder(folder: Path, name: object):
    (folder.parent / "secret.py").write_text("secret = 1")
    (folder / "config.json").write_text(json.dumps(CONFIG | {"auto_map": {"AutoModel": name}}))
    with pytest.raises(UserError, match="which is no class in a file of that folder"):
        prepare_upload(folder, "me/model")


@pytest.mark.parametrize("name", sorted({*PUBLISHED, "decoder", "decoder/config.json", "decoder/model.safetensors"}))
def test_no_link_is_published(folder: Path, tmp_path: Path, name: str):
    decoder = shutil.copytree(folder, folder / "decoder", ignore=lambda *_: ["checkpoint-10", "logs", ".cache"])
    write_card(folder)
    path = folder / name
    secret = shutil.move(path, tmp_path / "secret")
    path.symlink_to(secret)
    with pytest.raises(UserError, match=f"{path} is a link, which is not followed"):
        prepare_upload(folder, "me/model")
    assert decoder.parent == folder


def test_missing_code_and_missing_folders_are_refused(folder: Path):
    (folder / "modeling_transformer.py").unlink()
    with pytest.raises(UserError, match="modeling_transformer.py is missing"):
        files_to_publish(folder)
    with pytest.raises(UserError, match="there is no folder .*absent"):
        files_to_publish(folder / "absent")


@pytest.mark.parametrize(
    ("repo_id", "message"), [("me/a/b", "'me/a/b' cannot name"), ("-x/y", "cannot name"), ("model", "give OWNER/model")]
)
def test_an_invalid_name_is_refused(folder: Path, repo_id: str, message: str):
    with pytest.raises(UserError, match=message):
        prepare_upload(folder, repo_id)


def test_the_script_lists_without_a_network_and_publishes_with_one(hub: MockHub, folder: Path, tmp_path: Path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
    listed = push("--model_name_or_path", str(folder), "--dry_run", **nowhere)
    assert listed.returncode == 0, listed.stderr
    assert {line.split()[-1] for line in listed.stdout.splitlines()[:-2]} == PUBLISHED
    assert f"{(folder / 'config.json').stat().st_size} B  config.json" in listed.stdout
    assert "in 13 files for me/model\ndry run: nothing was uploaded" in listed.stdout

    refused = push("--model_name_or_path", str(folder), **nowhere)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "push_to_hub.py: error: there is no token" in refused.stderr

    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    published = push("--model_name_or_path", str(folder), "--commit_message", "Ours", **settings)
    assert published.returncode == 0, published.stderr
    assert f"published: {hub.url}/me/model/commit/" in published.stdout
    assert TOKEN not in published.stdout + published.stderr
    (commit,) = hub.commits()
    assert set(commit) == PUBLISHED
    assert json.loads(commit["config.json"]) == CONFIG
