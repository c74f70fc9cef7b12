"""How a run is asked to stop: by signals, which it obeys once the step at hand is done and saved."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any, Self

from hf_minibert.signals import NAMES, SECONDS_OF_ONE_CTRL_C, STATUSES, TERMINATED


class StopSignal:
    """Notes a signal that asks the process to stop, from `wait_for_steps` on; earlier, it ends the process.

    As a context manager it listens until the block ends. A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self.received = False
        self.agreed = False
        """Whether all processes know that one of them was asked to stop."""
        self.status = TERMINATED
        """The exit status after a signal: 143, but 130 after Ctrl-C and 129 after SIGHUP."""
        self._interrupted: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait_for_steps(self) -> None:
        """From now on, do not end the process at a signal, but let it finish its step."""
        for number in (signal.Signals[name] for name in NAMES if name in signal.Signals.__members__):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks
                self._before[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT":
            now = time.monotonic()
            if self._interrupted is not None and now - self._interrupted > SECONDS_OF_ONE_CTRL_C:
                raise KeyboardInterrupt
            self._interrupted = self._interrupted or now
        self.received, self.status = True, STATUSES.get(name, TERMINATED)
