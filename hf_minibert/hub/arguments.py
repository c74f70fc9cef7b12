"""What a run can be told about publishing it: flags that pre-training and fine-tuning share."""

import re
from dataclasses import dataclass

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
