"""Publish a finished run on the Hugging Face Hub: model, code, tokenizer, model card and the record of the run."""

from dataclasses import dataclass
from pathlib import Path

from hf_minibert.assets import model_folder
from hf_minibert.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Publish a finished run on the Hugging Face Hub, in one commit.

    Log in first with `hf auth login`, or set HF_TOKEN, with write access; --dry_run needs neither.
    """

    model_name_or_path: str
    """Folder of the finished run."""
    repo_id: str
    """Repository to publish to, as OWNER/NAME. It is made if it does not exist."""
    private: bool = False
    """Make the repository private. An existing public one is refused."""
    revision: str | None = None
    """Branch to commit to. It is made if it does not exist. Default: the main branch."""
    tag: str | None = None
    """A name for the commit, such as v1.0, which the repository does not have yet."""
    create_pr: bool = False
    """Propose the commit as a pull request to an existing repository, for which no write access is needed."""
    checkpoints: bool = False
    """Upload each checkpoint of the run, too, to a branch of its name, such as checkpoint-100, for the `revision` of
    `from_pretrained`."""
    license: str | None = None
    """The weights' licence by the Hub's identifier, such as apache-2.0. Default: none is stated, since it depends on
    the text."""
    commit_message: str = "Upload a model trained with hf_minibert"
    """First line of the commit message."""
    dry_run: bool = False
    """List the files and their sizes, and upload nothing. What the repository holds is not looked at."""


def _size(number: int) -> str:
    for limit, unit in ((1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")):
        if number >= limit:
            return f"{number / limit:.1f} {unit}"
    return f"{number} B"


def main(arguments: Arguments) -> int:
    """List the files to upload, then upload them."""
    folder = Path(model_folder(arguments.model_name_or_path))
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; model_name_or_path is that of a finished run")
    from huggingface_hub import get_token

    from hf_minibert.hub.contents import prepare_upload
    from hf_minibert.hub.publish import checked_token, publish

    if not arguments.dry_run:
        checked_token(get_token())
    content = prepare_upload(folder, arguments.repo_id, arguments.license)
    sizes = {
        name: source.stat().st_size if isinstance(source, Path) else len(source) for name, source in content.items()
    }
    for name, size in sizes.items():
        print(f"{_size(size):>10}  {name}")
    print(f"{_size(sum(sizes.values())):>10}  in {len(sizes)} files for {arguments.repo_id}")
    if arguments.dry_run:
        print("dry run: nothing was uploaded; what the repository holds was not looked at")
        return 0
    address = publish(
        folder,
        arguments.repo_id,
        token=get_token(),
        private=arguments.private,
        revision=arguments.revision,
        commit_message=arguments.commit_message,
        license_id=arguments.license,
        tag=arguments.tag,
        create_pr=arguments.create_pr,
        with_checkpoints=arguments.checkpoints,
    )
    print(f"published: {address}")
    return 0
