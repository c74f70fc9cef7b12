"""Publish a run by the run itself: its repository is made before it begins, and filled when it has ended."""

import logging
import os
import shlex
from pathlib import Path
from typing import Any

from hf_minibert.errors import UserError
from hf_minibert.hub.arguments import SharingArguments, require_license

logger = logging.getLogger(__name__)

_OPTIONS = {
    "hub_private_repo": ("private", "private"),
    "hub_revision": ("revision", "revision"),
    "hub_tag": ("tag", "tag"),
    "hub_create_pr": ("create_pr", "create_pr"),
    "hub_license": ("license_id", "license"),
    "hub_checkpoints": ("with_checkpoints", "checkpoints"),
}
"""A run's flags: what `publish` calls them, and what `hf-minibert push` does."""


def claim(arguments: SharingArguments, folder: Path, *, is_resumed: bool) -> None:
    """Make the repository that the run is to be published to, if any: one process of several does.

    Args:
        arguments: the run's.
        folder: the run's, which need not be there.
        is_resumed: whether it goes on, so that its tag may be there already.

    Raises:
        UserError: the Hub refuses, does not answer or has a public one, or the arguments contradict each other.
    """
    options = _options(arguments)
    if arguments.push_to_hub is None:
        for name in options:
            raise UserError(f"--{name} is for --push_to_hub OWNER/NAME, which is missing")
        return
    if (license_id := options.pop("hub_license", None)) is not None:
        require_license(license_id, "hub_license")
        from hf_minibert.hub.contents import require_card_for

        require_card_for(license_id, folder)
    if _is_first_process():
        from huggingface_hub import get_token

        from hf_minibert.hub.publish import claim_repository

        claim_repository(arguments.push_to_hub, token=get_token(), is_resumed=is_resumed, **_for_publish(options))


def _options(arguments: SharingArguments) -> dict[str, Any]:
    """What was said about the upload beside the repository, by its flags."""
    return {name: value for name, value in vars(arguments).items() if name in _OPTIONS and value not in (None, False)}


def _for_publish(options: dict[str, Any]) -> dict[str, Any]:
    return {_OPTIONS[name][0]: value for name, value in options.items()}


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
        options = _options(arguments)
        address = publish(folder, arguments.push_to_hub, token=get_token(), **_for_publish(options))
    except UserError as error:
        words = ["--model_name_or_path", str(folder), "--repo_id", arguments.push_to_hub]
        for name, value in options.items():
            words += [f"--{_OPTIONS[name][1]}"] + ([] if value is True else [value])
        raise UserError(
            f"the run is whole in {folder}, but not on the Hub: {error}; try again with hf-minibert push "
            f"{shlex.join(words)}"
        ) from None
    logger.info("published: %s", address)
    return 0


def _is_first_process() -> bool:
    """Whether this is the only process of the run, or the first of several as the launcher counts them."""
    return os.environ.get("RANK", "0") == "0"
