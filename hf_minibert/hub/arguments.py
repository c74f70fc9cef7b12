"""What a run can be told about publishing it: flags that pre-training and fine-tuning share."""

import re
from dataclasses import dataclass, fields

from hf_minibert.errors import UserError


def require_license(identifier: str, flag: str) -> None:
    """Refuse what cannot be one of the Hub's identifiers of licences, all of which the Hub alone knows.

    Raises:
        UserError: it cannot; the message names the flag.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", identifier):
        raise UserError(
            f"--{flag} {identifier!r} is no identifier of the Hub's, such as mit, apache-2.0 or cc-by-4.0; "
            "give `other` for a licence without one"
        )


@dataclass(kw_only=True)
class SharingArguments:
    """Sharing."""

    push_to_hub: str | None = None
    """Repository of the Hub for the finished run, as OWNER/NAME, like `hf-minibert push`. It is made before the run
    begins, so that a mistake shows then."""
    hub_private_repo: bool = False
    """Make that repository private. An existing public one is refused."""
    hub_revision: str | None = None
    """Branch to commit to. It is made if it does not exist. Default: the main branch."""
    hub_tag: str | None = None
    """A name for the commit, such as v1.0, which the repository does not have yet."""
    hub_create_pr: bool = False
    """Propose the commit as a pull request to an existing repository, for which no write access is needed."""
    hub_license: str | None = None
    """The weights' licence by the Hub's identifier, such as apache-2.0. Default: none is stated, since it depends on
    the text."""


@dataclass(kw_only=True)
class CheckpointSharingArguments(SharingArguments):
    """Sharing."""

    hub_checkpoints: bool = False
    """Upload each checkpoint that the run kept, too, to a branch of its name, such as checkpoint-100."""


SHARING = tuple(field.name for field in fields(CheckpointSharingArguments))
"""Their names. They say nothing of what a run computes."""
