"""Upload a finished run's folder to the Hugging Face Hub: one commit, and one for each checkpoint that goes along."""

import hashlib
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined] # see patience.py
from huggingface_hub.hf_api import RepoFile
from tqdm import tqdm

from hf_minibert.card_parts import is_generated, merged, metadata_of, own_words, with_metadata_of
from hf_minibert.errors import UserError
from hf_minibert.files import CARD, GENERATED_CARD, Manifest
from hf_minibert.hub.card import render_card
from hf_minibert.hub.contents import RESULTS, check_repo_id, left_of_a_run, prepare_checkpoint, prepare_upload
from hf_minibert.hub.patience import Patience

logger = logging.getLogger(__name__)

Content = dict[str, Path | bytes]


def publish(
    folder: Path,
    repo_id: str,
    *,
    token: str | None,
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload a model trained with hf_minibert",
    license_id: str | None = None,
    tag: str | None = None,
    create_pr: bool = False,
    with_checkpoints: bool = False,
) -> str:
    """Upload a finished run in one commit, and make its repository (and branch) where there is none.

    What was uploaded before an interruption is not sent again. What somebody wrote into the card on the Hub stays; see
    `_keep_words_of_the_hub`. Where an earlier run was uploaded, what only that one had goes, such as its certificate.

    Args:
        folder: the run's output folder.
        repo_id: the repository, as OWNER/NAME.
        token: the user's access token; it is sent to the Hub and shown nowhere.
        private: nobody else may see the repository; an existing public one is refused.
        revision: the branch to commit to; default, the main branch.
        commit_message: the commit's first line.
        license_id: the weights' licence, as the Hub names it; default, see :func:`render_card`.
        tag: a name for the commit, such as v1.0, that the repository does not have yet.
        create_pr: propose the commit as a pull request, for which no write access is needed.
        with_checkpoints: upload each checkpoint of the run, too, to a branch of its name.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        UserError: the folder or the name is not acceptable, there is no token, or the Hub refuses or does not answer.
    """
    _check_proposal(create_pr, private, tag, with_checkpoints)
    content = prepare_upload(folder, repo_id, license_id)
    earlier = (
        {path.name: prepare_checkpoint(path, repo_id, revision) for path in _checkpoints(folder)}
        if with_checkpoints
        else {}
    )
    if with_checkpoints and not earlier:
        raise UserError(f"{folder} holds no checkpoint; upload it without --checkpoints")
    conversation = _Conversation(repo_id, checked_token(token))
    try:
        conversation.make_ready(private, revision, tag, create_pr)
        address, made = conversation.upload(folder, content, revision, commit_message, license_id, tag, create_pr)
        for name, files in tqdm(earlier.items(), desc="checkpoints", disable=not earlier):
            conversation.upload_checkpoint(name, files)
        if tag is not None:  # when all is there that a second try would have to send again
            conversation.make_tag(tag, made)
    except UserError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # the Hub's client raises them all
        raise conversation.explained(error) from None  # a cause could show the token in a traceback
    return address


def claim_repository(
    repo_id: str,
    *,
    token: str | None,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    create_pr: bool = False,
    with_checkpoints: bool = False,
    is_resumed: bool = False,
) -> None:
    """Make the repository that a run is going to be pushed to, so that a mistake shows before the work.

    Arguments are those of :func:`publish`; a run that is resumed may have its tag already.

    Raises:
        UserError: as :func:`publish`.
    """
    check_repo_id(repo_id)
    _check_proposal(create_pr, private, tag, with_checkpoints)
    conversation = _Conversation(repo_id, checked_token(token))
    try:
        conversation.make_ready(private, revision, tag, create_pr)
        if tag is not None and not is_resumed:
            conversation.require_free(tag)
    except UserError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise conversation.explained(error) from None


def _check_proposal(create_pr: bool, private: bool, tag: str | None, with_checkpoints: bool) -> None:
    if create_pr and (tag is not None or with_checkpoints or private):
        raise UserError("a pull request only proposes a commit: leave out its tag, the checkpoints and what is private")


def checked_token(token: str | None) -> str:
    """A token that can be sent.

    Raises:
        UserError: there is none, or it cannot be one; it is not quoted.
    """
    if token is None:
        raise UserError("there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN")
    if not re.fullmatch(r"[!-~]+", token):  # the HTTP client would say so too, and quote the token
        raise UserError("the token for the Hub is malformed (a space or a stray character): see HF_TOKEN")
    return token


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


class _Conversation:
    """The requests of one upload. Each waits for a Hub that is busy; see `Patience`."""

    def __init__(self, repo_id: str, token: str) -> None:
        self.repo_id, self._token = repo_id, token
        self.hub = HfApi(token=token)
        self.keep_trying = Patience().keep_trying

    def make_repository(self, *, private: bool) -> None:
        """Make the repository, unless it is there; a public one is none that is to be private."""
        hub, repo_id = self.hub, self.repo_id
        self.keep_trying(lambda: hub.create_repo(repo_id, private=private or None, exist_ok=True))
        if private and not self.keep_trying(lambda: hub.model_info(repo_id)).private:
            raise UserError(f"{repo_id} exists and is public; make it private on the Hub first, or publish it publicly")

    def make_ready(self, private: bool, revision: str | None, tag: str | None, create_pr: bool) -> None:
        """Make the repository and the branch, and see to it that the commit can be made and called so."""
        hub, repo_id = self.hub, self.repo_id
        for name in (tag, revision):
            if name is not None and (
                not re.fullmatch(r"\w[\w./+-]*", name) or ".." in name or name.endswith((".", "/"))
            ):
                raise UserError(f"{name!r} can be no tag or branch; letters, digits and . - _ / may stand in it")
        if create_pr:  # whoever proposes need not be allowed to make anything
            self.keep_trying(lambda: hub.model_info(repo_id, revision=revision))
            return
        self.make_repository(private=private)
        self.keep_trying(lambda: hub.auth_check(repo_id, write=True))
        if revision is not None:
            self.keep_trying(lambda: hub.create_branch(repo_id, branch=revision, exist_ok=True))

    def commit_of(self, tag: str) -> str | None:
        """What a tag names; None if there is no such tag."""
        tags = self.keep_trying(lambda: self.hub.list_repo_refs(self.repo_id)).tags
        return next((ref.target_commit for ref in tags if ref.name == tag), None)

    def require_free(self, tag: str, content: Content | None = None) -> None:
        """Refuse a tag that the repository has, unless an earlier try gave it to the same files."""
        named = self.commit_of(tag)
        if named is None or (content is not None and self.keep_trying(lambda: self._holds(content, named))):
            return
        raise UserError(f"{self.repo_id} has a tag {tag} already; choose another, or delete that one on the Hub")

    def upload(
        self,
        folder: Path,
        content: Content,
        revision: str | None,
        commit_message: str,
        license_id: str | None,
        tag: str | None,
        create_pr: bool,
    ) -> tuple[str, str]:
        """Make the run's commit, which the tag must be free for; returns its address and its name.

        Arguments as those of `publish`.
        """
        hub, repo_id = self.hub, self.repo_id
        info = self.keep_trying(lambda: hub.model_info(repo_id, revision=revision))
        address = f"{hub.endpoint}/{repo_id}/{revision or 'main'}"
        there = [file.rfilename for file in info.siblings or ()]
        if CARD in there:
            theirs = self.keep_trying(lambda: self._read(CARD, info.sha))
            _keep_words_of_the_hub(content, theirs, folder, address, repo_id, license_id)
        if tag is not None:
            self.require_free(tag, content)
        gone = list[str]()
        if RESULTS in there:
            gone = left_of_a_run(self.keep_trying(lambda: self._read(RESULTS, info.sha)), there, content)
            if gone:
                logger.info("what only an earlier run had goes from %s: %s", repo_id, ", ".join(gone))
        made = self._commit(content, revision, commit_message, info.sha, create_pr=create_pr, gone=gone)
        manifest = Manifest.read(folder)
        if manifest is not None and CARD in content:
            manifest.cards[address] = hashlib.sha256(_bytes(content[CARD])).hexdigest()
            try:
                manifest.write()
            except OSError as error:  # what is published is published
                logger.warning("%s takes no note of the card that is on the Hub now (%s)", folder, error.strerror)
        return made

    def upload_checkpoint(self, name: str, content: Content) -> None:
        """A commit on a branch of its own, which begins where the repository does, without the files of the run."""
        hub, repo_id = self.hub, self.repo_id
        first = self.keep_trying(lambda: hub.list_repo_commits(repo_id))[-1].commit_id
        self.keep_trying(lambda: hub.create_branch(repo_id, branch=name, revision=first, exist_ok=True))
        info = self.keep_trying(lambda: hub.model_info(repo_id, revision=name))
        if any(file.rfilename == CARD for file in info.siblings or ()):
            theirs = self.keep_trying(lambda: self._read(CARD, info.sha)).decode("utf-8", "replace")
            ours = _bytes(content[CARD]).decode()
            card = with_metadata_of(theirs, ours) or merged(theirs, ours)
            if card is not None:
                content[CARD] = card.encode()
            else:
                del content[CARD]
                logger.info("the card of %s on the Hub was edited by hand and stays", name)
        self._commit(content, name, f"Upload {name}", info.sha, create_pr=False)

    def _commit(
        self,
        content: Content,
        revision: str | None,
        message: str,
        parent: str | None,
        *,
        create_pr: bool,
        gone: Sequence[str] = (),
    ) -> tuple[str, str]:
        """Send the files, then the commit. Its operations remember what has been sent, and are tried again as they are.

        `gone` are files that it removes.

        Returns:
            The address of the commit or the pull request, and the commit's name; of a pull request made earlier, its
            branch.
        """
        operations: list[Any] = [CommitOperationAdd(name, source) for name, source in content.items()]
        operations += [CommitOperationDelete(name, is_folder=False) for name in gone]

        def commit() -> tuple[str, str]:
            made = self.hub.create_commit(
                self.repo_id,
                operations=operations,
                commit_message=message,
                revision=revision,
                parent_commit=parent,
                create_pr=create_pr,
            )
            return made.pr_url or made.commit_url, made.oid

        def made_after_all() -> tuple[str, str] | None:
            """The same, if only the answer was lost."""
            if create_pr:
                proposals = self.hub.get_repo_discussions(
                    self.repo_id, discussion_type="pull_request", discussion_status="open"
                )
                ours = (one for one in proposals if one.title == message and self._holds(content, one.git_reference))
                return next(((one.url, str(one.git_reference)) for one in ours), None)
            sha = self.hub.model_info(self.repo_id, revision=revision).sha
            if sha is None or sha == parent or not self._holds(content, sha):
                return None
            return f"{self.hub.endpoint}/{self.repo_id}/commit/{sha}", sha

        if create_pr and (proposal := self.keep_trying(made_after_all)) is not None:  # by an earlier try
            return proposal
        return self.keep_trying(commit, made_after_all)

    def _holds(self, content: Mapping[str, Path | bytes], revision: str | None) -> bool:
        """Whether a revision has just these files, or others beside them."""
        found = {
            entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
            for entry in self.hub.get_paths_info(self.repo_id, list(content), revision=revision)
            if isinstance(entry, RepoFile)
        }
        return all(found.get(name) in _names_of(_bytes(source)) for name, source in content.items())

    def make_tag(self, tag: str, sha: str) -> None:
        """Name a commit, unless an earlier try has."""
        hub, repo_id = self.hub, self.repo_id
        if self.commit_of(tag) is not None:
            return

        def tagged_after_all() -> bool | None:
            refs = hub.list_repo_refs(repo_id).tags
            return any(ref.name == tag and ref.target_commit == sha for ref in refs) or None

        def make() -> bool:
            hub.create_tag(repo_id, tag=tag, revision=sha)
            return True

        self.keep_trying(make, tagged_after_all)

    def _read(self, name: str, commit: str | None) -> bytes:
        """A file that the repository has."""
        with tempfile.TemporaryDirectory() as cache:  # what it has now, whatever was there when it was read last
            path = self.hub.hf_hub_download(self.repo_id, name, revision=commit, cache_dir=cache)
            return Path(path).read_bytes()

    def explained(self, error: Exception) -> UserError:
        """One line on what went wrong with the Hub and what to do about it."""
        while isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # of a file's upload
            error = error.__cause__
        reason = self._reason(error).replace(self._token, "<token>")
        return UserError(" ".join(reason.split()))

    def _reason(self, error: Exception) -> str:
        repo_id = self.repo_id
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            reasons = {
                401: "the Hub does not accept the token: log in again with `hf auth login`, or set HF_TOKEN",
                403: f"the token may not write to {repo_id}: use one with write access, or a repository of your own",
                404: f"the Hub has no {repo_id} or no such branch in it, or the token may not see it",
                412: f"somebody has committed to {repo_id} meanwhile; nothing was uploaded: look at it, and push again",
                413: "the Hub takes no files so large; give the model fewer parameters, or shards",
                429: "the Hub takes no more requests for now (status 429); push again later, what was sent is not lost",
            }
            given = f"the Hub answered with status {status}: {error.server_message or 'no reason given'}"
            return reasons.get(status, given)
        if isinstance(error, HTTPError):
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            return f"the Hub at {self.hub.endpoint} does not answer ({reason}); check the connection and HF_ENDPOINT"
        return str(error)


def _bytes(source: Path | bytes) -> bytes:
    return source.read_bytes() if isinstance(source, Path) else source


def _names_of(content: bytes) -> tuple[str, str]:
    """The names that the Hub has for a file: its SHA-256, and git's for a small one."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return hashlib.sha256(content).hexdigest(), git.hexdigest()


def _keep_words_of_the_hub(
    content: Content, theirs: bytes, folder: Path, address: str, repo_id: str, license_id: str | None
) -> None:
    """Change what is uploaded so that nothing that a person wrote into the card on the Hub is lost.

    What stands there above and below the generated part, or was changed in the metadata, moves into the new card; so
    do the metadata of a card that has nothing else, as the Hub's website makes it. Where the generated part itself was
    changed, the card there stays, and the new one goes up beside it.

    Raises:
        UserError: persons wrote into the card here and there, and not the same.
    """
    ours, there = _bytes(content[CARD]).decode("utf-8", "replace"), theirs.decode("utf-8", "replace")
    if theirs == _bytes(content[CARD]):
        return
    if is_generated(ours):
        overriding = ("license",) if license_id is not None else ()
        stated = license_id or (metadata_of(there) or {}).get("license")
        licensed = render_card(folder, repo_id, stated) if isinstance(stated, str) else ours
        renewed = with_metadata_of(there, licensed, overriding=overriding) or merged(
            there, licensed, overriding=overriding
        )
        if renewed is None:
            content[GENERATED_CARD] = content.pop(CARD)
            logger.warning(
                "the card on the Hub was edited by hand and is kept; the new one is %s there", GENERATED_CARD
            )
            return
        content[CARD] = renewed.encode()
        if renewed != licensed:
            logger.info("what was written into the card on the Hub by hand stays there")
        return
    stated = (metadata_of(there) or {}).get("license")
    if license_id is None and isinstance(stated, str) and "license" not in (metadata_of(ours) or {}):
        with_license = merged(ours, render_card(folder, repo_id, stated))
        content[CARD] = ours.encode() if with_license is None else with_license.encode()
    if is_generated(there) or not there.strip():
        return
    words = own_words(ours)
    if words is not None and words == own_words(there):
        return
    manifest = Manifest.read(folder)
    if manifest is None or manifest.cards.get(address) != hashlib.sha256(theirs).hexdigest():
        raise UserError(
            f"the card at {address} was edited by hand and is not {folder / CARD}, which was edited, too; bring what "
            f"is to stay from the Hub's into yours, delete {CARD} on the Hub, and push again"
        )
