"""Signals: what they do while steps are made, and after."""

import signal

import pytest

from hf_minibert.runs import stopping as stop_module
from hf_minibert.runs.stopping import StopSignal

STATUSES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 143}


@pytest.mark.parametrize(("number", "status"), STATUSES.items())
def test_a_signal_lets_the_step_end(number, status):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert signal.getsignal(number) == before
        stop.wait_for_steps()
        signal.raise_signal(number)
        assert stop.received
        assert stop.status == status
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_ends_at_once_but_one_that_comes_twice_is_one(monkeypatch):
    with StopSignal() as stop:
        stop.wait_for_steps()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # from the launcher, too
        monkeypatch.setattr(stop_module, "SECONDS_OF_ONE_CTRL_C", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_is_to_be_ignored_stays_ignored():
    """As after `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            stop.wait_for_steps()
            signal.raise_signal(signal.SIGHUP)
            assert not stop.received
    finally:
        signal.signal(signal.SIGHUP, before)
