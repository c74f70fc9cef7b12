import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from commands import BLOCKER, TINY_RUN, call, flags, write_corpus
from huggingface_hub import ModelCard
from loopback_hub import READ_TOKEN, TOKEN, Failure, LoopbackHub, Repository, serving
from test_card import ARGUMENTS, CONFIG, FINETUNED, PRETRAINED, write_run

from hf_minibert import MiniBertConfig, MiniBertForPreTraining
from hf_minibert.assets import model_folder
from hf_minibert.errors import UserError
from hf_minibert.files import Manifest, weights_digest
from hf_minibert.hub import patience
from hf_minibert.hub import publish as publish_module
from hf_minibert.hub.card import render_card, write_card
from hf_minibert.hub.contents import files_to_publish, left_of_a_run, prepare_upload
from hf_minibert.hub.evaluations import evaluation_files
from hf_minibert.hub.publish import publish

# of huggingface_hub itself, which sends large files so
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with serving() as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
        files = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"  # made of it when the client is imported
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that a push makes, without making them."""
    pauses: list[float] = []
    monkeypatch.setattr(patience, "_wait", lambda seconds, _: pauses.append(seconds))
    return pauses


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


def upload(folder: Path, *, token: str | None = TOKEN, **options: Any) -> str:
    return publish(folder, "me/model", token=token, commit_message="Upload a model", **options)


def push(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | variables
    command = [sys.executable, str(SCRIPT), "--repo_id", "me/model", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_run_that_cannot_be_written_is_published_all_the_same(
    hub: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def read_only(_: Manifest) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    Manifest(folder, "pretrain", {}).write()
    monkeypatch.setattr(Manifest, "write", read_only)
    assert upload(folder).startswith(f"{hub.url}/me/model/commit/")
    assert "takes no note of the card that is on the Hub now (Read-only file system)" in caplog.text


def test_only_what_belongs_to_the_model_is_published(folder: Path):
    assert {path.name for path in files_to_publish(folder)} == PUBLISHED - {"README.md"}
    assert set(prepare_upload(folder, "me/model")) == PUBLISHED


def test_pictures_and_the_tokenizer_of_the_target_go_along(folder: Path):
    (folder / "target_tokenizer").mkdir()
    more = {
        "predictions.png",
        "attention.png",
        "target_tokenizer/tokenizer.json",
        "target_tokenizer/tokenizer_config.json",
    }
    for name in (*more, "target_tokenizer/notes.txt", "photo.png"):
        (folder / name).write_text("{}", encoding="utf-8")
    assert set(prepare_upload(folder, "me/model")) == PUBLISHED | more
    assert more <= set(left_of_a_run((folder / "results.json").read_bytes(), more, PUBLISHED))
    (folder / "target_tokenizer/tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["a.B", null]}}')
    with pytest.raises(UserError, match="code that would run on the machine of whoever trusts the model's"):
        files_to_publish(folder)


def test_adapters_are_published_in_place_of_weights(folder: Path):
    """With the name of the model that they belong to, but not its folder."""
    (folder / "model.safetensors").unlink()
    (folder / "adapter_model.safetensors").write_text("weights", encoding="utf-8")
    with pytest.raises(UserError, match="not a finished checkpoint: model.safetensors missing"):
        files_to_publish(folder)  # without the configuration of PEFT
    (folder / "adapter_config.json").write_text('{"r": 8, "base_model_name_or_path": "/home/me/runs/base"}')
    content = prepare_upload(folder, "me/model")
    assert set(content) == PUBLISHED - {"model.safetensors"} | {"adapter_config.json", "adapter_model.safetensors"}
    assert json.loads(content["adapter_config.json"]) == {"r": 8, "base_model_name_or_path": "base"}  # type: ignore[arg-type]


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


def test_one_commit_has_exactly_these_files(hub: LoopbackHub, folder: Path):
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
    header = json.loads(hub.bodies("/commit/")[0].splitlines()[0])["value"]
    assert header["summary"] == "Upload a model"
    assert header["parentCommit"] == hub.repositories["me/model"].history("main")[-1]
    assert "POST /api/models/me/model/commit/main" in hub.paths()


def test_the_token_travels_in_its_header_only(hub: LoopbackHub, folder: Path):
    upload(folder)
    for _, path, headers, body in hub.requests:
        if path.startswith("/large/") and not path.endswith("/verify"):  # the store of large files has its own keys
            assert "Authorization" not in headers
            continue
        assert headers.pop("authorization", headers.pop("Authorization", None)) == f"Bearer {TOKEN}", path
        assert TOKEN not in path + str(headers)
        assert TOKEN.encode() not in body


def test_a_revision_is_a_branch(hub: LoopbackHub, folder: Path):
    upload(folder, revision="step-10")
    assert "POST /api/models/me/model/branch/step-10" in hub.paths()
    assert [path for path in hub.paths() if "/commit/" in path] == ["POST /api/models/me/model/commit/step-10"]
    (folder / "metrics.jsonl").write_text("another run")
    upload(folder, revision="step-10")
    assert len(hub.commits(revision="step-10")) == 2
    assert not hub.commits()


def test_private_is_private_or_nothing_is_uploaded(hub: LoopbackHub, folder: Path):
    hub.repositories["me/model"] = Repository(private=False)
    with pytest.raises(UserError, match="me/model exists and is public"):
        upload(folder, private=True)
    assert not hub.commits()
    hub.repositories.clear()
    upload(folder, private=True)
    assert hub.repositories["me/model"].private
    assert len(hub.commits()) == 1
    asked = json.loads(hub.bodies("/api/repos/create")[-1])
    assert asked.get("visibility") == "private" or asked.get("private") is True


def test_a_generated_card_is_renewed_and_an_edited_one_goes_up_as_it_is(hub: LoopbackHub, folder: Path):
    readme = write_card(folder)
    upload(folder)
    readme.write_text("---\nlicense: mit\n---\nmine", encoding="utf-8")
    upload(folder)
    first, second = hub.commits()
    assert 'model="me/model"' in first["README.md"].decode()
    assert second["README.md"] == readme.read_bytes()


def test_a_card_that_was_edited_on_the_hub_stays(hub: LoopbackHub, folder: Path, caplog: pytest.LogCaptureFixture):
    upload(folder)
    hub.edit(edited := hub.commits()[-1]["README.md"].replace(b"## Limits", b"## What I saw"))
    upload(folder)
    commit = hub.commits()[-1]
    assert commit["README.md"] == edited
    assert 'model="me/model"' in commit["README.generated.md"].decode()
    assert "the card on the Hub was edited by hand and is kept" in caplog.text
    for untouched in (hub.commits()[0]["README.md"], render_card(folder, "me/other").encode()):
        hub.edit(untouched)
        upload(folder)
        assert hub.commits()[-1]["README.md"] == render_card(folder, "me/model").encode()


def test_a_card_that_was_edited_here_and_on_the_hub_is_not_uploaded(hub: LoopbackHub, folder: Path):
    Manifest(folder, "pretrain", {}).write()
    readme = folder / "README.md"
    readme.write_text("My words.")
    upload(folder)
    readme.write_text("My better words.")
    upload(folder)
    assert hub.commits()[-1]["README.md"] == b"My better words.", "nobody has edited it there"
    hub.edit(b"Words of a colleague.")
    with pytest.raises(UserError, match="was edited by hand and is not .*delete README.md on the Hub, and push again"):
        upload(folder)
    assert hub.commits()[-1]["README.md"] == b"Words of a colleague."
    readme.write_bytes(b"Words of a colleague.")
    upload(folder)


def test_a_licence_that_the_website_asked_for_is_kept(hub: LoopbackHub, folder: Path):
    hub.edit(b"---\nlicense: gpl-3.0\n---\n")
    upload(folder)
    assert "license: gpl-3.0\n" in hub.commits()[-1]["README.md"].decode()


def test_all_metadata_that_the_website_asked_for_is_kept(hub: LoopbackHub, folder: Path):
    hub.edit(b"---\nlicense: other\nlicense_name: ours\nextra_gated_prompt: Ask first.\n---\n")
    upload(folder)
    card = hub.commits()[-1]["README.md"].decode()
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["license_name"] == "ours"
    assert metadata["extra_gated_prompt"] == "Ask first."
    assert (metadata["license"], metadata["library_name"]) == ("other", "transformers")
    upload(folder)
    assert yaml.safe_load(hub.commits()[-1]["README.md"].decode().split("---\n")[1]) == metadata
    hub.edit(stated := b"---\nlicense: mit\n# ask the lawyers\n---\n")
    upload(folder)
    assert hub.commits()[-1]["README.md"] == stated, "a comment would be lost"
    assert 'model="me/model"' in hub.commits()[-1]["README.generated.md"].decode()


def test_a_blank_card_on_the_hub_makes_way(hub: LoopbackHub, folder: Path):
    hub.edit(b"\n")
    upload(folder)
    assert set(hub.commits()[-1]) == PUBLISHED
    assert 'model="me/model"' in hub.commits()[-1]["README.md"].decode()
    hub.edit(b"")
    (folder / "README.md").write_text("My words.")
    upload(folder)
    assert hub.commits()[-1]["README.md"] == b"My words."


def test_metadata_on_the_hub_that_no_card_could_have_are_no_crash(hub: LoopbackHub, folder: Path):
    for broken in (b"---\nlicense: [mit\n---\nMine.", b"---\n1: one\n---\nMine."):
        hub.edit(broken)
        upload(folder)
        assert hub.commits()[-1]["README.md"] == broken
        assert 'model="me/model"' in hub.commits()[-1]["README.generated.md"].decode()


def test_a_certificate_of_other_weights_stays_here(folder: Path):
    certificate = folder / "certificate.json"
    certificate.write_text(json.dumps({"sha256": weights_digest(folder)}))
    assert certificate in files_to_publish(folder)
    certificate.write_text(json.dumps({"sha256": "of others"}))
    assert certificate not in files_to_publish(folder)


def test_what_only_an_earlier_run_had_goes(hub: LoopbackHub, folder: Path):
    certificate = {"holds": True, "class": "MiniBertForMaskedLM", "sha256": weights_digest(folder), "lines": []}
    (folder / "certificate.json").write_text(json.dumps(certificate))
    shutil.copytree(folder, folder / "decoder", ignore=shutil.ignore_patterns("checkpoint*", "README*", "logs"))
    upload(folder)
    repository = hub.repositories["me/model"]
    head = repository.branches["main"]
    theirs = {"onnx/model.onnx": b"theirs", "decoder/notes.md": b"theirs", "notes.md": b"theirs"}
    repository.branches["main"] = repository.add(head, "By hand", repository.commits[head].files | theirs)
    assert {"certificate.json", "decoder/model.safetensors", "decoder/config.json"} <= set(hub.commits()[-1])
    shutil.rmtree(folder / "decoder")
    (folder / "certificate.json").unlink()
    (folder / "model.safetensors").unlink()
    shard = "model-00001-of-00001.safetensors"
    (folder / shard).write_text("")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    upload(folder)
    kept = PUBLISHED - {"model.safetensors"}
    assert set(hub.commits()[-1]) == {*kept, *theirs, shard, "model.safetensors.index.json"}


def test_where_no_run_of_ours_was_nothing_goes(hub: LoopbackHub, folder: Path):
    hub.edit(b"A model of mine.")
    repository = hub.repositories["me/model"]
    head = repository.branches["main"]
    theirs = {
        "results.json": b'{"kind": "finetune"}',
        "certificate.json": b"{}",
        "model-00001-of-00002.safetensors": b"",
    }
    repository.branches["main"] = repository.add(head, "By hand", repository.commits[head].files | theirs)
    upload(folder)
    assert set(theirs) <= set(hub.commits()[-1])


def test_code_of_a_tokenizer_is_not_published(folder: Path):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({"auto_map": {"AutoTokenizer": [None, "evil/repo--tok.T"]}}))
    with pytest.raises(UserError, match=r"has the auto_map .*evil/repo--tok.T.*take auto_map out"):
        files_to_publish(folder)


def test_an_edited_card_that_names_a_local_folder_is_pointed_out(folder: Path, caplog: pytest.LogCaptureFixture):
    readme = write_card(folder)
    readme.write_text(readme.read_text(encoding="utf-8") + f'see "{folder}"', encoding="utf-8")
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
        ("/commit/", 429, "takes no more requests for now .status 429.; push again later"),
        ("/large/", 403, "may not write to me/model"),
        ("/refs", 400, "no such luck"),
        ("/tag/", 403, "may not write to me/model"),
        ("/preupload/", 404, "no me/model or no such branch"),
        ("/api/validate-yaml", 400, "no such luck"),
    ],
)
@pytest.mark.usefixtures("waits")
def test_a_refusal_is_one_clear_error(hub: LoopbackHub, folder: Path, part: str, status: int, message: str):
    hub.failures = [Failure(part, status)]
    with pytest.raises(UserError, match=message) as caught:
        upload(folder, tag="v1")
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_hub_that_does_not_answer_is_one_clear_error(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the Hub at http://127.0.0.1:9 does not answer .*HF_ENDPOINT"):
        upload(folder)


@pytest.mark.parametrize("end", ["\nmore", " ", "é", "\0"])
def test_a_malformed_token_is_not_quoted(hub: LoopbackHub, folder: Path, end: str):
    with pytest.raises(UserError, match="the token for the Hub is malformed") as caught:
        upload(folder, token=TOKEN + end)
    assert TOKEN not in str(caught.value)
    assert not hub.requests


def test_without_a_token_nothing_is_sent(hub: LoopbackHub, folder: Path):
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
    with pytest.raises(UserError, match="no .safetensors file|the index of the weights, is damaged") as caught:
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


def test_the_script_lists_without_a_network_and_publishes_with_one(hub: LoopbackHub, folder: Path, tmp_path: Path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home")}
    listed = push("--model_name_or_path", str(folder), "--dry_run", **nowhere)
    assert listed.returncode == 0, listed.stderr
    assert {line.split()[-1] for line in listed.stdout.splitlines()[:-2]} == PUBLISHED
    assert f"{(folder / 'config.json').stat().st_size} B  config.json" in listed.stdout
    assert "in 13 files for me/model\ndry run: nothing was uploaded; what the repository holds was" in listed.stdout

    refused = push("--model_name_or_path", str(folder), **nowhere)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "push_to_hub.py: error: there is no token" in refused.stderr

    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    published = push("--model_name_or_path", str(folder), "--commit_message", "Ours", **settings)
    assert published.returncode == 0, published.stderr
    assert f"published: {hub.url}/me/model/commit/" in published.stdout
    assert TOKEN not in published.stdout + published.stderr
    (commit,) = hub.commits()
    assert set(commit) == PUBLISHED
    assert json.loads(commit["config.json"]) == CONFIG


# ---- what people wrote


ABOVE, BELOW = "<!-- hf_minibert: generated from", "\n## Thanks\n\nTo everybody.\n"


def test_words_of_a_person_here_go_up_around_the_renewed_part(hub: LoopbackHub, folder: Path):
    readme = write_card(folder)
    readme.write_text(
        readme.read_text(encoding="utf-8").replace(ABOVE, f"My model.\n\n{ABOVE}") + BELOW, encoding="utf-8"
    )
    upload(folder, license_id="apache-2.0")
    card = hub.commits()[-1]["README.md"].decode()
    assert 'model="me/model"' in card
    assert card.index("My model.") < card.index("## Results") < card.index(BELOW)
    assert "license: apache-2.0\n" in card


def test_a_published_licence_stays_where_words_were_written_here(hub: LoopbackHub, folder: Path):
    readme = write_card(folder)
    upload(folder, license_id="apache-2.0")
    readme.write_text(readme.read_text(encoding="utf-8") + BELOW, encoding="utf-8")
    upload(folder)
    card = hub.commits()[-1]["README.md"].decode()
    assert card.endswith(BELOW)
    assert "license: apache-2.0\n" in card
    assert "The weights are under `apache-2.0`" in card
    mine = readme.read_text(encoding="utf-8").replace("library_name", "license: mit\nlibrary_name", 1)
    readme.write_text(mine, encoding="utf-8")
    upload(folder)
    card = hub.commits()[-1]["README.md"].decode()
    assert "license: mit\n" in card
    assert "The weights are under `mit`" in card


def test_words_of_a_person_on_the_hub_stay_around_the_renewed_part(hub: LoopbackHub, folder: Path):
    upload(folder)
    hub.edit(hub.commits()[-1]["README.md"].replace(b"library_name", b"license: mit\nlibrary_name", 1) + BELOW.encode())
    (folder / "results.json").write_text(json.dumps(PRETRAINED | {"num_parameters": 7_654_321}), encoding="utf-8")
    write_card(folder)
    upload(folder)
    card = hub.commits()[-1]["README.md"].decode()
    assert "7,654,321 parameters" in card
    assert card.endswith(BELOW)
    assert "license: mit\n" in card
    upload(folder)
    assert hub.commits()[-1]["README.md"].decode() == card


def test_words_here_and_there_are_not_mixed(hub: LoopbackHub, folder: Path):
    upload(folder)
    hub.edit(hub.commits()[-1]["README.md"] + BELOW.encode())
    readme = write_card(folder)
    generated = readme.read_text(encoding="utf-8")
    readme.write_text(generated + "\nMine.\n", encoding="utf-8")
    with pytest.raises(UserError, match="was edited by hand and is not"):
        upload(folder)
    readme.write_text(generated + BELOW, encoding="utf-8")
    upload(folder)
    assert hub.commits()[-1]["README.md"].decode().endswith(BELOW)


# ---- a Hub with moods


@pytest.mark.parametrize("part", ["/api/repos/create", "/preupload/", "/commit/", "/revision/", "/api/models/me/model"])
def test_a_busy_hub_is_waited_for_as_long_as_it_asks(
    hub: LoopbackHub, folder: Path, waits: list, part: str, monkeypatch
):
    monkeypatch.setattr("time.sleep", lambda seconds: waits.append(seconds - 1))  # of the client, which adds a second
    hub.failures = [Failure(part, 429, {"Retry-After": "7"}, times=2)]
    upload(folder, revision="dev")
    assert waits == [7.0, 7.0]
    assert len(hub.commits(revision="dev")) == 1


@pytest.mark.parametrize(("is_done", "create_pr"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_line_cut_at_the_commit_gives_one_commit(
    hub: LoopbackHub, folder: Path, waits: list, *, is_done: bool, create_pr: bool
):
    hub.repositories["me/model"] = repository = Repository(private=False)
    hub.failures = [Failure("/commit/", times=1, is_done=is_done)]
    address = upload(folder, create_pr=create_pr)
    assert waits == [1.0]
    assert len(hub.stored) == 2, "large files are sent once"
    if create_pr:
        assert [title for title, _ in repository.proposals] == ["Upload a model"]
        assert address == f"{hub.url}/me/model/discussions/1"
        assert not hub.commits()
    else:
        (commit,) = hub.commits()
        assert set(commit) == PUBLISHED
        assert address == f"{hub.url}/me/model/commit/{repository.branches['main']}"


def test_patience_ends(hub: LoopbackHub, folder: Path, waits: list):
    hub.failures = [Failure("/commit/", 503)]
    with pytest.raises(UserError, match="status 503"):
        upload(folder)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]
    hub.failures = [Failure("/commit/", 429, {"Retry-After": "86400"})]
    with pytest.raises(UserError, match="no more requests for now"):
        upload(folder)
    assert len(waits) == 5, "a day is not waited for"


def test_somebody_who_commits_meanwhile_is_not_overwritten(hub: LoopbackHub, folder: Path, monkeypatch):
    upload(folder)
    monkeypatch.setattr(patience, "_wait", lambda *_: hub.edit(b"Words of a colleague."))
    hub.failures = [Failure("/commit/", 503, times=1)]
    (folder / "metrics.jsonl").write_text("another run")
    with pytest.raises(UserError, match="somebody has committed to me/model meanwhile"):
        upload(folder)
    assert hub.commits()[-1]["README.md"] == b"Words of a colleague."


def test_pauses_are_what_the_server_asks_for():
    asked = patience._seconds_asked
    assert asked("3", None) == 3
    assert asked("Fri, 01 Jan 2100 00:00:00 GMT", None) > 1e9
    assert asked("soon", '"api";r=0;t=55') == 55
    assert asked(None, None) is None


def test_the_bar_shows_the_pause(capsys: pytest.CaptureFixture[str]):
    patience._wait(0.3, "the Hub is busy")
    assert "the Hub is busy |" in capsys.readouterr().err


# ---- branches, tags, pull requests, checkpoints


def test_a_tag_names_the_commit(hub: LoopbackHub, folder: Path):
    upload(folder, tag="v1")
    repository = hub.repositories["me/model"]
    assert repository.tags == {"v1": repository.branches["main"]}
    upload(folder, tag="v1")  # which it has
    (folder / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="has a tag v1 already"):
        upload(folder, tag="v1")
    assert len(hub.commits()) == 1


def test_a_tag_names_the_runs_commit_and_not_a_later_one(
    hub: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tag = publish_module._Conversation.make_tag
    ours = list[str]()

    def after_another(self: Any, tag: str, sha: str) -> None:
        repository = hub.repositories["me/model"]
        ours.append(repository.branches["main"])
        repository.branches["main"] = "0" * 40  # somebody edits the card on the website
        make_tag(self, tag, sha)

    monkeypatch.setattr(publish_module._Conversation, "make_tag", after_another)
    upload(folder, tag="v1")
    assert hub.repositories["me/model"].tags == {"v1": ours[0]}


def test_a_lost_answer_to_a_tag_is_no_failure(hub: LoopbackHub, folder: Path, waits: list):
    hub.failures = [Failure("/tag/", times=1, is_done=True)]
    upload(folder, tag="v1")
    assert (waits, list(hub.repositories["me/model"].tags)) == ([1.0], ["v1"])


def test_a_proposal_needs_no_right_to_write(hub: LoopbackHub, folder: Path):
    hub.repositories["me/model"] = repository = Repository(private=False)
    with pytest.raises(UserError, match="may not write"):
        upload(folder, token=READ_TOKEN)
    upload(folder, token=READ_TOKEN, create_pr=True)
    ((_, head),) = repository.proposals
    assert set(repository.commits[head].files) >= PUBLISHED
    assert not hub.commits()
    for options in ({"tag": "v1"}, {"with_checkpoints": True}, {"private": True}):
        with pytest.raises(UserError, match="a pull request only proposes"):
            upload(folder, create_pr=True, **options)


def test_checkpoints_are_branches_without_the_files_of_the_run(hub: LoopbackHub, folder: Path):
    with pytest.raises(UserError, match=r"checkpoint-10.*model.safetensors|checkpoint-10 is not"):
        upload(folder, with_checkpoints=True)
    assert not hub.requests
    for step in (10, 9):
        checkpoint = folder / f"checkpoint-{step}"
        shutil.rmtree(checkpoint, ignore_errors=True)
        checkpoint.mkdir()
        for name in PUBLISHED - {"README.md", "results.json", "curves.png", "metrics.jsonl"}:
            shutil.copy(folder / name, checkpoint / name)
        (checkpoint / "model.safetensors").write_bytes(b"weights of step %d" % step)
        (checkpoint / "optimizer.pt").write_bytes(b"private")
        (checkpoint / "train_state.json").write_text(json.dumps({"step": step, "tokens": 1000}))
    upload(folder, with_checkpoints=True)
    for step in (9, 10):
        (commit,) = hub.commits(revision=f"checkpoint-{step}")
        assert commit["model.safetensors"] == b"weights of step %d" % step
        assert f"step {step}\n" in commit["README.md"].decode()
        assert not {"optimizer.pt", "train_state.json", "arguments.json", "results.json", "curves.png"} & set(commit)
    assert hub.commits()[-1]["model.safetensors"] == b"model.safetensors"
    upload(folder, with_checkpoints=True)
    assert len(hub.commits(revision="checkpoint-9")) == 1, "nothing has changed"
    (folder / "checkpoint-9" / "train_state.json").write_text(json.dumps({"step": 9, "tokens": 2000}))
    upload(folder, with_checkpoints=True)
    assert "2,000 tokens" in hub.commits(revision="checkpoint-9")[-1]["README.md"].decode(), "of the run trained anew"
    repository = hub.repositories["me/model"]
    head = repository.branches["checkpoint-9"]
    files = repository.commits[head].files | {"README.md": b"The best of them."}
    repository.branches["checkpoint-9"] = repository.add(head, "Update README.md", files)
    upload(folder, with_checkpoints=True)
    assert hub.commits(revision="checkpoint-9")[-1]["README.md"] == b"The best of them."


# ---- figures for the Hub's pages


def test_figures_on_a_file_of_ones_own_are_none_of_the_data_set() -> None:
    dataset = {"name": "me/reviews", "hub_id": "me/reviews", "eval_examples": 9, "test_examples": 5}
    results = {"kind": "finetune", "dataset": dataset, "metrics": {"eval_accuracy": 0.5, "test_accuracy": 0.25}}
    assert b"test split (5)" in evaluation_files(results)[".eval_results/me_reviews.yaml"]
    dataset["files"] = {"test": "mine.jsonl"}
    assert b"kept out of training (9)" in evaluation_files(results)[".eval_results/me_reviews.yaml"]
    dataset["files"] = {"eval": "dev.jsonl", "test": "mine.jsonl"}
    assert evaluation_files(results) == {}


def test_figures_on_a_data_set_of_the_hub_are_in_its_format(hub: LoopbackHub, tmp_path: Path):
    dataset = FINETUNED["dataset"] | {"name": "me/a:b", "hub_id": "me/a", "config": "b", "test_examples": 2000}
    folder = write_run(tmp_path / "run", FINETUNED | {"dataset": dataset, "best_metric": "accuracy"})
    upload(folder)
    (name,) = [name for name in hub.commits()[-1] if name.startswith(".eval_results/")]
    entries = huggingface_hub._eval_results.parse_eval_result_entries(yaml.safe_load(hub.commits()[-1][name]))
    assert entries == [
        huggingface_hub.EvalResultEntry(
            dataset_id="me/a",
            task_id="b",
            value=90.5,
            notes="accuracy in percent, on the test split (2,000)",
        )
    ]
    assert name == ".eval_results/me_a.yaml"


# ---- processes


FILL = """
import json, sys
import torch, transformers

assert "hf_minibert" not in sys.modules
try:
    import hf_minibert
except ImportError:
    pass
else:
    sys.exit("hf_minibert could be imported")
tokenizer = transformers.AutoTokenizer.from_pretrained("me/model")
model = transformers.AutoModelForMaskedLM.from_pretrained("me/model", trust_remote_code=True).eval()
with torch.no_grad():
    logits = model(**tokenizer("He opened the [MASK].", return_tensors="pt")).logits
torch.save(logits, sys.argv[1])
"""


def finished_run(folder: Path, tokenizer: Any) -> Any:
    """A tiny model with the record of a run."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = MiniBertForPreTraining(MiniBertConfig(vocab_size=len(tokenizer), **shape)).eval()
    write_run(folder, PRETRAINED)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def settings(hub: LoopbackHub, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}


def test_pushed_here_and_opened_there_without_the_package(hub: LoopbackHub, tmp_path: Path, tokenizer: Any):
    model = finished_run(tmp_path / "run", tokenizer)
    done = push("--model_name_or_path", str(tmp_path / "run"), "--private", **settings(hub, tmp_path))
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sitecustomize.py").write_text(BLOCKER)
    (elsewhere / "fill.py").write_text(FILL)
    ours = ("HF_", "PYTHON", "TRANSFORMERS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= settings(hub, elsewhere) | {"PYTHONPATH": str(elsewhere), "HOME": str(elsewhere)}
    environment |= {"OMP_NUM_THREADS": "1"}  # as here; two may add in another order
    command = [sys.executable, "-P", str(elsewhere / "fill.py"), str(tmp_path / "logits.pt")]
    opened = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert opened.returncode == 0, opened.stderr
    with torch.no_grad():
        expected = model(**tokenizer("He opened the [MASK].", return_tensors="pt"))[0]
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)


def test_a_push_that_is_killed_goes_on_where_it_was(hub: LoopbackHub, tmp_path: Path, folder: Path):
    """Of two files it has sent one; the next push sends the other, and makes the only commit."""
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (folder / name).write_bytes(name.encode() * 1000)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    slow = hashlib.sha256((folder / "model-00002-of-00002.safetensors").read_bytes()).hexdigest()
    hub.slow_parts = {f"{slow}/": 60.0}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, str(SCRIPT), "--repo_id", "me/model", "--model_name_or_path", str(folder)]
    with subprocess.Popen(
        command, env=environment | settings(hub, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 60
        while len(hub.stored) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert len(hub.stored) == 2, "the picture and the first half of the weights"
    assert not hub.commits()
    hub.slow_parts, before = {}, list(hub.stored)
    upload(folder)
    assert hub.stored == [*before, slow]
    assert len(hub.commits()) == 1


@pytest.fixture
def run_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run of a few steps, of which the Hub is on loopback."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    options = {"corpus": write_corpus(tmp_path / "texts.jsonl"), "output_dir": tmp_path / "run", "report_to": "none"}
    return flags(TINY_RUN | options)


def test_a_run_publishes_itself(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_flags: list[str]
):
    assert call("pretrain.py", monkeypatch, *run_flags, "--push_to_hub", "me/model", "--hub_private_repo") == 0
    assert hub.repositories["me/model"].private
    (commit,) = hub.commits()
    assert commit["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
    assert commit["curves.png"].startswith(b"\x89PNG")
    card = commit["README.md"].decode()
    assert "push_to_hub" not in card
    assert ModelCard(card).data.eval_results


def test_a_run_publishes_itself_as_push_would(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, run_flags: list[str]
):
    """On a branch, with a tag, a licence and its checkpoints; a name that is taken shows before the run."""
    wanted = ["--push_to_hub", "me/model", "--hub_revision", "dev", "--hub_tag", "v1", "--hub_license", "mit"]
    assert call("pretrain.py", monkeypatch, *run_flags, *wanted, "--hub_checkpoints") == 0
    repository = hub.repositories["me/model"]
    (commit,) = hub.commits(revision="dev")
    assert not hub.commits()
    assert repository.tags == {"v1": repository.branches["dev"]}
    card = ModelCard(commit["README.md"].decode())
    assert card.data.license == "mit"
    assert "hub_" not in card.text
    steps = [name for name in repository.branches if name.startswith("checkpoint-")]
    assert steps
    for name in steps:
        checkpoint = hub.commits(revision=name)[-1]
        assert "model.safetensors" in checkpoint
        assert "The card of the run is on the branch `dev`." in checkpoint["README.md"].decode()
    arguments = json.loads(commit["arguments.json"])
    assert not [name for name in arguments if "hub" in name], "whoever repeats the run publishes nothing"
    output = run_flags[run_flags.index("--output_dir") + 1]
    assert call("pretrain.py", monkeypatch, "--output_dir", output, "--resume") == 0, "all is there, and stays"
    assert call("pretrain.py", monkeypatch, *run_flags, *wanted, "--overwrite_output_dir") == 2
    assert "me/model has a tag v1 already" in capsys.readouterr().err
    assert len(hub.commits(revision="dev")) == 1


def test_what_was_published_before_a_failure_is_no_hindrance(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, run_flags: list[str]
):
    hub.failures = [Failure("/branch/checkpoint-", 403)]
    wanted = ["--push_to_hub", "me/model", "--hub_tag", "v1", "--hub_checkpoints"]
    assert call("pretrain.py", monkeypatch, *run_flags, *wanted) == 2
    command = capsys.readouterr().err.partition("hf-minibert push ")[2].split()
    hub.failures = []
    assert call("push_to_hub.py", monkeypatch, *command) == 0
    repository = hub.repositories["me/model"]
    assert repository.tags == {"v1": repository.branches["main"]}
    assert [name for name in repository.branches if name.startswith("checkpoint-")]


def test_a_run_proposes_itself(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, run_flags: list[str]):
    hub.repositories["other/model"] = Repository(private=False)
    assert call("pretrain.py", monkeypatch, *run_flags, "--push_to_hub", "other/model", "--hub_create_pr") == 0
    assert not hub.commits("other/model")
    (proposed,) = hub.commits("other/model", "refs/pr/1")
    assert "model.safetensors" in proposed
    output = run_flags[run_flags.index("--output_dir") + 1]
    assert call("pretrain.py", monkeypatch, "--output_dir", output, "--resume") == 0
    assert len(hub.repositories["other/model"].proposals) == 1, "nothing is proposed twice"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own call
@pytest.mark.parametrize("lora_rank", [None, 2])
def test_a_fine_tuning_publishes_itself(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora_rank: int | None
):
    """With its picture; adapters go up in place of weights."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    rows = [{"text": f"A text number {number}.", "label": "ab"[number % 2]} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"model_name_or_path": model_folder("minibert-tiny"), "dataset": tmp_path / "rows.jsonl"}
    options |= {"output_dir": tmp_path / "run", "num_train_epochs": 1, "lora_rank": lora_rank, "mixed_precision": "no"}
    given = {name: value for name, value in options.items() if value is not None}
    assert call("finetune.py", monkeypatch, *flags(given), "--push_to_hub", "me/model") == 0
    (commit,) = hub.commits()
    weights = "model.safetensors" if lora_rank is None else "adapter_model.safetensors"
    assert commit[weights] == (tmp_path / "run" / weights).read_bytes()
    assert ("model.safetensors" in commit) is (lora_rank is None)
    assert "](predictions.png)" in commit["README.md"].decode()
    assert commit["predictions.png"].startswith(b"\x89PNG")


def test_a_run_that_may_not_publish_does_not_begin(
    hub: LoopbackHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    run_flags: list[str],
):
    hub.repositories["other/there"] = Repository(private=False)
    for words, message in (
        (["--push_to_hub", "model"], "give OWNER/model"),
        (["--hub_private_repo"], "--hub_private_repo is for --push_to_hub"),
        (["--hub_tag", "v1"], "--hub_tag is for --push_to_hub"),
        (["--push_to_hub", "me/model", "--hub_license", "MIT?"], "--hub_license 'MIT?' is no identifier"),
        (["--push_to_hub", "me/model", "--hub_create_pr", "--hub_tag", "v1"], "a pull request only proposes a commit"),
        (["--push_to_hub", "me/model", "--hub_create_pr"], "the Hub has no me/model"),
        (["--push_to_hub", "other/there", "--hub_create_pr", "--hub_revision", "typo"], "or no such branch in it"),
        (["--push_to_hub", "other/there"], "the token may not write to other/there"),
        (["--push_to_hub", "me/model", "--hub_tag", "v 1"], "'v 1' can be no tag or branch"),
        (["--push_to_hub", "other/model"], "the token may not write to other/model"),
    ):
        assert call("pretrain.py", monkeypatch, *run_flags, *words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert set(hub.repositories) == {"other/there"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").write_text("My own words.")
    assert call("pretrain.py", monkeypatch, *run_flags, "--push_to_hub", "me/model", "--hub_license", "mit") == 2
    assert "was edited by hand and is kept; write the licence there" in capsys.readouterr().err


def test_a_run_that_cannot_be_published_is_whole(
    hub: LoopbackHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    run_flags: list[str],
):
    hub.failures = [Failure("/commit/", 403)]
    assert call("pretrain.py", monkeypatch, *run_flags, "--push_to_hub", "me/model", "--hub_tag", "v1") == 2
    said = capsys.readouterr().err
    assert "but not on the Hub: the token may not write to me/model" in said
    assert f"hf-minibert push --model_name_or_path {tmp_path / 'run'} --repo_id me/model --tag v1" in said
    hub.failures = []
    assert call("pretrain.py", monkeypatch, "--output_dir", str(tmp_path / "run"), "--resume") == 0
    assert len(hub.commits()) == 1, "resuming what is finished publishes it"
