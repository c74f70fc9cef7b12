"""Publish a run by the run itself: its repository is made before it begins, and filled when it has ended."""

import logging
import os
from pathlib import Path

from hf_minibert.errors import UserError
from hf_minibert.hub.arguments import SharingArguments

logger = logging.getLogger(__name__)


def claim(arguments: SharingArguments) -> None:
    """Make the repository that the run is to be published to, if any: one process of several does.

    Raises:
        UserError: the Hub refuses, does not answer or has a public one, or the arguments contradict each other.
    """
    if arguments.hub_private_repo and arguments.push_to_hub is None:
        raise UserError("--hub_private_repo is for --push_to_hub OWNER/NAME, which is missing")
    if arguments.push_to_hub is not None and _is_first_process():
        from huggingface_hub import get_token

        from hf_minibert.hub.publish import claim_repository

        claim_repository(arguments.push_to_hub, token=get_token(), private=arguments.hub_private_repo)


def publish_run(arguments: SharingArguments, folder: Path) -> int:
    """Publish a run that has ended well, if that was asked for. Returns the exit status, 0.

    Raises:
        UserError: as `publish`; it says that the run itself is whole.
    """
    if arguments.push_to_hub is None or not _is_first_process():
        return 0
    from huggingface_hub import get_token

    from hf_minibert.hub.publish import publish

    try:
        address = publish(folder, arguments.push_to_hub, token=get_token(), private=arguments.hub_private_repo)
    except UserError as error:
        raise UserError(
            f"the run is whole in {folder}, but not on the Hub: {error}; try again with hf-minibert push "
            f"--model_name_or_path {folder} --repo_id {arguments.push_to_hub}"
        ) from None
    logger.info("published: %s", address)
    return 0


def _is_first_process() -> bool:
    """Whether this is the only process of the run, or the first of several as the launcher counts them."""
    return os.environ.get("RANK", "0") == "0"
