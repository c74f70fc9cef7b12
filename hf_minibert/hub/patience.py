"""Wait for a Hub that is busy, or whose line was cut, and try again: a bounded number of times, with a bar."""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

# Taken from here because the library behind it changed its name between the client's versions (httpx, httpx2).
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
from tqdm import tqdm

Result = TypeVar("Result")

TRIES = 6
LONGEST_WAIT = 300.0
"""Seconds; a Hub that asks for more is told to the user instead."""
_TRANSIENT = (408, 429, 500, 502, 503, 504)


class Patience:
    """Tries of one conversation with the Hub. A Hub that has not answered once yet is not waited for."""

    def __init__(self) -> None:
        self._has_answered = False

    def keep_trying(self, action: Callable[[], Result], done: Callable[[], Result | None] | None = None) -> Result:
        """What an action of the Hub's client returns.

        Args:
            action: may be done again after a failure that passes by.
            done: looks, before it is done again, whether it was done after all and only its answer was lost; returns
                its result, or None.

        Raises:
            HTTPError: a failure that does not pass by, or the last of too many.
        """
        for number in range(TRIES):
            try:
                result = action()
            except HTTPError as error:
                self._has_answered |= isinstance(error, HfHubHTTPError)
                seconds = self._seconds_to_wait(error, number)
                if seconds is None:
                    raise
                reason = f"status {error.response.status_code}" if isinstance(error, HfHubHTTPError) else "line cut"
            else:
                self._has_answered = True
                return result
            _wait(seconds, f"the Hub is busy ({reason}), try {number + 2} of {TRIES}")
            if done is not None and (found := self.keep_trying(done)) is not None:
                return found
        raise AssertionError("the last failure was raised")

    def _seconds_to_wait(self, error: HTTPError, number: int) -> float | None:
        """The pause before the next try; None if another would not help."""
        if number + 1 >= TRIES:
            return None
        if not isinstance(error, HfHubHTTPError):
            return 2.0**number if self._has_answered else None
        if error.response.status_code not in _TRANSIENT:
            return None
        asked = _seconds_asked(error.response.headers.get("Retry-After"), error.response.headers.get("RateLimit"))
        seconds = 2.0**number if asked is None else asked
        return seconds if seconds <= LONGEST_WAIT else None


def _seconds_asked(retry_after: str | None, rate_limit: str | None) -> float | None:
    """The pause that a server asks for: in seconds or as a date, or by the Hub's header ``"api";r=0;t=55``."""
    if retry_after is not None:
        with suppress(ValueError):
            return max(0.0, float(retry_after))
        with suppress(ValueError, TypeError):
            return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    found = re.search(r"\bt=(\d+)", rate_limit or "")
    return float(found[1]) if found else None


def _wait(seconds: float, reason: str) -> None:
    """Pause, and show how long."""
    with tqdm(total=round(seconds, 1), desc=reason, unit="s", bar_format="{desc} |{bar}| {n:.0f}/{total:.0f} s") as bar:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
            bar.update(min(round(seconds - max(0.0, end - time.monotonic()), 1), bar.total) - bar.n)
