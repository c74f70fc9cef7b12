"""How a run is asked to stop, so that the step at hand can end and be saved."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS_BETWEEN = 1.0
"""A Ctrl-C that comes sooner than this after another is the same one: a launcher passes it on."""
_STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143}
if sys.platform != "win32":
    _STATUSES |= {signal.SIGHUP: 129, signal.SIGUSR1: 143}  # the last is how schedulers such as Slurm warn of the end


class StopSignal:
    """Remembers that the process was asked to stop."""

    def __init__(self) -> None:
        self.status = 0
        """The exit status of a run that was stopped so, such as 130 after Ctrl-C; 0: it was not asked to."""
        self._time = 0.0

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        status = _STATUSES[signal.Signals(number)]
        if status == self.status == _STATUSES[signal.SIGINT] and time.monotonic() - self._time > SECONDS_BETWEEN:
            raise KeyboardInterrupt
        self.status, self._time = status, time.monotonic()


@contextmanager
def stop_signal() -> Iterator[StopSignal]:
    """Have SIGTERM, SIGUSR1, SIGHUP and Ctrl-C noted while the block lasts; a second Ctrl-C ends it at once."""
    stop = StopSignal()
    heeded = [number for number in _STATUSES if signal.getsignal(number) is not signal.SIG_IGN]  # nohup's is ignored
    before = {number: signal.signal(number, stop._receive) for number in heeded}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
