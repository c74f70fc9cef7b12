"""`UserError`, for input that is wrong; and a check of names that can be neither a folder nor a model on the Hub."""

from pathlib import Path


class UserError(ValueError):
    """A mistake in what the user gave: the message names the value, the rule and the remedy.

    Scripts print it as one line and exit with status 2.
    """


def is_nowhere(name: str | Path) -> bool:
    """Whether a name is neither an existing folder nor a possible name on the Hub, ``owner/name``."""
    could_be_on_hub = isinstance(name, str) and name.count("/") == 1 and name[0] not in "./~"
    return not Path(name).is_dir() and not could_be_on_hub
