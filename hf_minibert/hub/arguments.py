"""What a run can be told about publishing it: flags that pre-training and fine-tuning share."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class SharingArguments:
    """Sharing."""

    push_to_hub: str | None = None
    """Repository of the Hub for the finished run, as OWNER/NAME, like `hf-minibert push`. It is made before the run
    begins, so that a mistake shows then."""
    hub_private_repo: bool = False
    """Make that repository private. An existing public one is refused."""
