"""How a command ends that a signal asks to stop: what is half-written goes, and the process with it, within seconds.

The signal becomes a `SystemExit` in the main thread, so that every ``with`` and ``finally`` does its part. Two things
can be in the way. A module may be on its way in, where an exception aborts the process in PyTorch's own code: if
nothing is half-written the process ends as it is, and else the exception comes when the import is over. And a library
may compute for minutes without a look at Python: after `SECONDS_TO_END` the process ends as it is, and the next one
sweeps up what it left. A thread sees to both.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Ctrl-C, the request to end, a terminal that is gone, and how schedulers such as Slurm warn of the end."""
TERMINATED = 143
STATUSES = {"SIGINT": 130, "SIGHUP": 129}
SECONDS_OF_ONE_CTRL_C = 1.0
"""A terminal and a launcher may both pass on the same Ctrl-C."""
SECONDS_TO_END = 5.0
_SECONDS_BETWEEN_TRIES = 0.05


class EndedBySignals:
    """Listens while a command runs. A second signal ends the process at once.

    What a signal already ignores, as after ``nohup``, stays ignored. A part of the command that does better, as
    training does, sets handlers of its own meanwhile.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._since: float | None = None
        self._name: str | None = None
        self._is_over = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
            return self
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        _ACTIVE.append(self)
        for number in (signal.Signals[name] for name in NAMES):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self not in _ACTIVE:
            return
        _ACTIVE.remove(self)
        self._is_over.set()
        self._let_go()
        os.write(self._writer, b"\0")
        self._watcher.join()
        os.close(self._reader)
        os.close(self._writer)
        if self._name is not None:
            sys.stderr.write(self._line(self._name))

    def _let_go(self) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._receive:
                signal.signal(number, handler)

    def _line(self, name: str) -> str:
        return f"{self._program}: stopped by {name}\n"

    def _receive(self, number: int, frame: FrameType | None) -> None:
        status = _status(name := signal.Signals(number).name)
        if self._since is not None:
            if time.monotonic() - self._since > SECONDS_OF_ONE_CTRL_C:
                self._end_now(name, status)
        elif not _is_importing(frame):
            self._since, self._name = time.monotonic(), name
            raise SystemExit(status)
        elif not _HALF_WRITTEN:
            self._end_now(name, status)

    def _watch(self) -> None:
        """Have the signal that came first obeyed, in time; a thread of its own."""
        while number := os.read(self._reader, 1)[0]:
            if self._is_over.is_set() or signal.getsignal(number) != self._receive:
                continue
            deadline = time.monotonic() + SECONDS_TO_END
            while not self._is_over.wait(_SECONDS_BETWEEN_TRIES):
                if time.monotonic() > deadline:
                    self._end_now(name := signal.Signals(number).name, _status(name))
                if self._since is None and (thread := threading.main_thread().ident) is not None:
                    signal.pthread_kill(thread, number)

    def _end_now(self, name: str, status: int) -> None:
        for child in multiprocessing.active_children():
            child.kill()
        with suppress(OSError):
            os.write(2, self._line(name).encode())
        os._exit(status)


_ACTIVE: list[EndedBySignals] = []
_HALF_WRITTEN: list[Path] = []


@contextmanager
def half_written(path: Path) -> Iterator[None]:
    """A block whose end sees to what is half-written in a folder."""
    _HALF_WRITTEN.append(path)
    try:
        yield
    finally:
        _HALF_WRITTEN.remove(path)


@contextmanager
def withheld_from_children() -> Iterator[None]:
    """A block in which processes begin that leave signals to this one, from their first instruction on.

    They inherit that the signals are blocked, and so does the server that forks them where that is how Python begins
    processes (Linux since 3.14): a signal to the whole group would end it, and then they count as dead.
    """
    if sys.platform == "win32":
        yield
        return
    numbers = [signal.Signals[name] for name in NAMES]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        resource_tracker.ensure_running()  # it ends with a block of its own, so it must come first
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent() -> None:
    """Ignore signals in a process that the run still needs when it is told to stop."""
    numbers = [signal.Signals[name] for name in NAMES if name in signal.Signals.__members__]
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def call_pickled(function: bytes, *arguments: Any) -> None:
    """Call a function, unpickled here, with signals left to the parent: what it imports may unblock them."""
    leave_to_parent()
    pickle.loads(function)(*arguments)


def _status(name: str) -> int:
    return STATUSES.get(name, TERMINATED)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False


def _let_go_in_child() -> None:
    """Give signals in a forked process their usual meaning, and keep them from its parent's thread."""
    while _ACTIVE:
        _ACTIVE.pop()._let_go()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go_in_child)
