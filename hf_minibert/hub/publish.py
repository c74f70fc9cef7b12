"""Upload a finished run's folder to the Hugging Face Hub, in one commit."""

import hashlib
import json
import logging
import re
import tempfile
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard

# Taken from here because the library behind it changed its name between the client's versions (httpx, httpx2).
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # exported, though not by __all__

from hf_minibert.errors import UserError
from hf_minibert.files import CARD, DECODER, GENERATED_CARD, Manifest, shown
from hf_minibert.hub.card import (
    code_files,
    is_generated,
    is_generated_file,
    refuse_link,
    render_card,
    shareable_arguments,
)

logger = logging.getLogger(__name__)

REQUIRED = ("config.json", "tokenizer.json", "tokenizer_config.json")
# What a run folder may share, by name. A list of what is allowed, so that nothing unforeseen ever leaves the machine.
OPTIONAL = (
    "generation_config.json",
    "special_tokens_map.json",
    "arguments.json",
    "metrics.jsonl",
    "results.json",
    "curves.png",
)
PICKLES = (".bin", ".pt", ".pth", ".pkl")


def _weights(folder: Path) -> list[Path]:
    """``model.safetensors``, or the shards that its index names with the index itself."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    for path in (whole, index):
        refuse_link(path)
    if whole.is_file():
        return [whole]
    if not index.is_file():
        return []
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        strange = [name for name in names if not re.fullmatch(r"[\w.-]+\.safetensors", name, re.ASCII)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is not an index of weights ({error}); save the model again") from error
    if strange:
        raise UserError(
            f"{index} names {shown(strange[0])}, which is no .safetensors file in that folder; save the model again"
        )
    shards = [folder / name for name in names]
    for shard in shards:
        refuse_link(shard)
    missing = ", ".join(shard.name for shard in shards if not shard.is_file())
    if missing:
        raise UserError(f"{folder} is not a complete checkpoint: {index.name} names {missing}, which is missing")
    return [index, *shards]


def files_to_publish(folder: Path) -> list[Path]:
    """The files of a run that belong on the Hub, without the card: model, code, tokenizer, and the record of the run.

    A hybrid run's decoder belongs there too.

    Checkpoints to resume from, optimizer states, logs, pickles and hidden files stay behind. A file that
    another one names must lie in that folder, too, and be no link.

    Raises:
        UserError: the folder does not exist or is not a checkpoint, or a file is a link or named outside the folder.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the --output_dir of a finished run")
    decoder = folder / DECODER
    for place in (folder, *([decoder] if decoder.is_symlink() or decoder.is_dir() else [])):
        for name in (*REQUIRED, *OPTIONAL, CARD):
            refuse_link(place / name)
    weights = _weights(folder)
    missing = [name for name in REQUIRED if not (folder / name).is_file()] + ([] if weights else ["model.safetensors"])
    if missing:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        hint = (
            f"; {pickles[0]} is a pickle, which can run code when it is opened and is not published" if pickles else ""
        )
        raise UserError(f"{folder} is not a finished checkpoint: {' and '.join(missing)} missing{hint}")
    found = [folder / name for name in (*REQUIRED, *OPTIONAL) if (folder / name).is_file()]
    found += [*weights, *code_files(folder)]
    if decoder.is_dir():
        found += [decoder / name for name in (*REQUIRED, *OPTIONAL) if (decoder / name).is_file()]
        found += [*_weights(decoder), *code_files(decoder), *(folder / file.name for file in code_files(decoder))]
    return sorted(set(found))


def prepare_upload(folder: Path, repo_id: str, license_id: str | None = None) -> dict[str, Path | bytes]:
    """The files that :func:`publish` uploads, by their names in the repository.

    The card's snippets name the repository, and local paths lose their folders; a ``README.md`` that a person has
    edited goes up as it is.

    Args:
        folder: the run's output folder.
        repo_id: the repository, as OWNER/NAME.
        license_id: the weights' licence, as the Hub names it; default, see :func:`render_card`.

    Raises:
        UserError: the repository's name is not valid, the folder is not that of a finished run, or a licence is given
            for a card that a person has edited.
    """
    if license_id is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license_id):  # the Hub knows them all
        raise UserError(f"--license {license_id!r} is no identifier of the Hub's, such as mit, apache-2.0 or cc-by-4.0")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} cannot name a repository: {error}") from error
    if "/" not in repo_id:
        raise UserError(
            f"--repo_id {repo_id} lacks its owner: give OWNER/{repo_id}, with your user or organization name"
        )
    content: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in files_to_publish(folder)}
    if "arguments.json" in content:
        arguments = json.dumps(shareable_arguments(folder), indent=2, ensure_ascii=False)
        content["arguments.json"] = f"{arguments}\n".encode()
    readme = folder / CARD
    if readme.is_file() and not is_generated_file(readme):
        text = readme.read_text(encoding="utf-8", errors="replace")
        if license_id is not None:
            raise UserError(f"{readme} was edited by hand and is kept; write the licence there, and omit --license")
        if f'"{folder.as_posix()}"' in text or str(folder.resolve()) in text:
            logger.warning(
                "%s was edited by hand and is uploaded as it is: it names the local folder %s", readme, folder
            )
        content["README.md"] = readme
    else:
        content["README.md"] = render_card(folder, repo_id, license_id).encode()
    return dict(sorted(content.items()))


def _explain(error: Exception, repo_id: str, endpoint: str) -> str:
    """One line on what went wrong with the Hub and what to do about it."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        reasons = {
            401: "the Hub does not accept the token: log in again with `hf auth login`, or set HF_TOKEN",
            412: f"somebody has committed to {repo_id} meanwhile; nothing was uploaded: look at it, and push again",
            403: f"the token may not write to {repo_id}: use one with write access, or a --repo_id of your own",
            404: f"the Hub has no {repo_id} or no such --revision, or the token may not see it",
        }
        return reasons.get(
            status, f"the Hub answered with status {status}: {error.server_message or 'no reason given'}"
        )
    if isinstance(error, HTTPError):
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        return f"the Hub at {endpoint} does not answer ({reason}); check the connection and HF_ENDPOINT"
    return str(error)


def publish(
    folder: Path,
    repo_id: str,
    *,
    token: str | None,
    private: bool,
    revision: str | None,
    commit_message: str,
    license_id: str | None = None,
) -> str:
    """Upload a finished run in one commit, and make its repository (and branch) where there is none.

    A card that somebody has edited on the Hub stays; see :func:`_keep_edited_card`.

    Args:
        folder: the run's output folder.
        repo_id: the repository, as OWNER/NAME.
        token: the user's access token; it is sent to the Hub and shown nowhere.
        private: nobody else may see the repository; an existing public one is refused.
        revision: the branch to commit to; default, the main branch.
        commit_message: the commit's first line.
        license_id: the weights' licence, as the Hub names it; default, see :func:`render_card`.

    Returns:
        The address of the commit.

    Raises:
        UserError: the folder or the name is not acceptable, there is no token, or the Hub refuses or does not answer.
    """
    content = prepare_upload(folder, repo_id, license_id)
    if token is None:
        raise UserError("there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN")
    if not re.fullmatch(r"[!-~]+", token):  # the HTTP client would say so too, and quote the token
        raise UserError("the token for the Hub is malformed (a space or a stray character): see HF_TOKEN")
    hub = HfApi(token=token)
    try:
        hub.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not hub.model_info(repo_id).private:
            raise UserError(f"{repo_id} exists and is public; make it private on the Hub first, or leave out --private")
        if revision is not None:
            hub.create_branch(repo_id, branch=revision, exist_ok=True)
        address = f"{hub.endpoint}/{repo_id}/{revision or 'main'}"
        info = hub.model_info(repo_id, revision=revision)
        if any(file.rfilename == CARD for file in info.siblings or ()):
            _keep_edited_card(content, _read_card(hub, repo_id, info.sha), folder, address, repo_id, license_id)
        commit = hub.create_commit(
            repo_id,
            operations=[CommitOperationAdd(name, source) for name, source in content.items()],
            commit_message=commit_message,
            revision=revision,
            parent_commit=info.sha,
        )
    except UserError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # the Hub's client raises them all
        # A cause could show the token in a traceback, hence `from None`.
        reason = " ".join(_explain(error, repo_id, hub.endpoint).replace(token, "<token>").split())
        raise UserError(reason) from None
    manifest = Manifest.read(folder)
    if manifest is not None and CARD in content:
        manifest.cards[address] = _digest(_bytes(content[CARD]))
        manifest.write()
    return commit.commit_url


def _bytes(source: Path | bytes) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else source


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _read_card(hub: HfApi, repo_id: str, commit: str | None) -> bytes:
    """The card that a repository has."""
    with tempfile.TemporaryDirectory() as cache:  # what it has now, whatever was there when it was read last
        return Path(hub.hf_hub_download(repo_id, CARD, revision=commit, cache_dir=cache)).read_bytes()


def _keep_edited_card(
    content: dict[str, Path | bytes], theirs: bytes, folder: Path, address: str, repo_id: str, license_id: str | None
) -> None:
    """Change what is uploaded so that nothing that a person wrote into the card on the Hub is lost.

    A generated card is replaced, as is the one that was last published from this folder if that was written here. One
    that only states a licence, as the Hub's website makes it, gives it to ours. Any other was edited there: it stays
    as it is, and the generated one goes up beside it.

    Raises:
        UserError: the card was edited here and there.
    """
    ours = _bytes(content[CARD])
    text = theirs.decode("utf-8", errors="replace")
    is_ours_generated = is_generated(ours.decode("utf-8", errors="replace"))
    if theirs == ours or is_generated(text):
        return
    if is_ours_generated:
        card = ModelCard(text, ignore_metadata_errors=True)
        if not card.text.strip():
            stated = license_id or card.data.get("license")
            content[CARD] = render_card(folder, repo_id, stated if isinstance(stated, str) else None).encode()
            return
        content[GENERATED_CARD] = content.pop(CARD)
        logger.warning("the card on the Hub was edited by hand and is kept; the new one is %s there", GENERATED_CARD)
        return
    manifest = Manifest.read(folder)
    if manifest is None or manifest.cards.get(address) != _digest(theirs):
        raise UserError(
            f"the card at {address} was edited by hand and is not {folder / CARD}, which was edited, too; bring what "
            f"is to stay from the Hub's into yours, delete {CARD} on the Hub, and push again"
        )
