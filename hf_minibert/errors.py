"""`UserError`, for input that is wrong; names that are nowhere; and the reason that a library's error gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """A mistake in what the user gave: the message names the value, the rule and the remedy.

    Scripts print it as one line and exit with status 2.
    """


def is_nowhere(name: str | Path) -> bool:
    """Whether a name is neither an existing folder nor a possible name on the Hub, ``owner/name``."""
    could_be_on_hub = isinstance(name, str) and name.count("/") == 1 and name[0] not in "./~"
    return not Path(name).is_dir() and not could_be_on_hub


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """A block that imports what only ``pip install hf_minibert[extra]`` brings.

    Raises:
        UserError: something in it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hf_minibert"):
            raise
        missing = f"this needs {error.name}, which is not installed"
        raise UserError(f"{missing}: pip install 'hf_minibert[{extra}]'") from error


def reason_of(error: Exception) -> str:
    """What a library's error says, in one line; of one that only wraps another, as a config's checks do, that one."""
    is_wrapper = any(kind.__name__ == "StrictDataclassError" for kind in type(error).__mro__)
    return " ".join(str(error.__cause__ if is_wrapper and error.__cause__ is not None else error).split())
