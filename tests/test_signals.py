"""Signals: what they do to a command, before it is a run that makes steps and in all others."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from hf_minibert import signals
from hf_minibert.command_line import run
from hf_minibert.signals import STATUSES, TERMINATED, half_written

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


@dataclass
class Nothing:
    """A command without flags."""


def ending(monkeypatch, main) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["folder/verb"])
    with pytest.raises(SystemExit) as ended:
        run(Nothing, main)
    return ended.value.code


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_command_in_order_and_in_one_line(monkeypatch, capsys, number):
    before, seen = signal.getsignal(number), []

    def main(_: Nothing) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            seen.append("cleaned up")
        return 0

    assert ending(monkeypatch, main) == STATUSES.get(number.name, TERMINATED)
    assert capsys.readouterr().err == f"verb: stopped by {number.name}\n"
    assert seen == ["cleaned up"]
    assert signal.getsignal(number) == before


def test_a_signal_comes_after_the_import_where_something_is_half_written(monkeypatch, capsys, tmp_path):
    """An exception there can abort the process, as it goes through extension modules."""
    (tmp_path / "on_its_way_in.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def main(_: Nothing) -> int:
        with half_written(tmp_path):
            __import__("on_its_way_in")
            time.sleep(60)
        return 0

    assert ending(monkeypatch, main) == TERMINATED
    assert "on_its_way_in" in sys.modules
    assert capsys.readouterr().err == "verb: stopped by SIGTERM\n"


@pytest.mark.parametrize(
    "work",
    [
        "os.kill(os.getpid(), signal.SIGTERM); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
        "import ends_me",
        "signal.setitimer(signal.ITIMER_REAL, 0.01)\n"
        "    try: time.sleep(60)\n"
        "    finally: signal.setitimer(signal.ITIMER_REAL, 0.3); time.sleep(60)",
    ],
    ids=["a_library_computes", "a_module_is_imported", "asked_twice"],
)
def test_a_signal_ends_the_process_soon_whatever_it_does(tmp_path, work):
    (tmp_path / "ends_me.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    )
    program = tmp_path / "hf-minibert"  # by whose name it does not load the models
    program.write_text(
        "import hashlib, os, signal, sys, time\nfrom dataclasses import dataclass\n"
        "import hf_minibert.command_line as command_line, hf_minibert.signals as signals\n"
        "signals.SECONDS_TO_END = signals.SECONDS_OF_ONE_CTRL_C = 0.2\n"
        "signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))\n"
        f"@dataclass\nclass Nothing:\n    'Nothing.'\ndef main(_):\n    {work}\n"
        "command_line.run(Nothing, main)\n"
    )
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    words = [sys.executable, str(program)]
    done = subprocess.run(words, env=variables, check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (TERMINATED, "hf-minibert: stopped by SIGTERM\n")


def test_what_a_process_is_told_does_not_reach_its_parent(monkeypatch, capsys):
    def main(_: Nothing) -> int:
        if (child := os.fork()) == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
        time.sleep(0.2)
        return 0

    assert ending(monkeypatch, main) == 0
    assert capsys.readouterr().err == ""


def test_what_is_to_be_ignored_stays_ignored(monkeypatch):
    """As after `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ending(monkeypatch, lambda _: os.kill(os.getpid(), signal.SIGHUP) or 0) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_process_leaves_signals_to_its_parent_from_its_first_instruction_on(tmp_path, method):
    program = f"""
import multiprocessing, os, pickle, signal, sys, time
sys.path.append({str(Path(signals.__file__).parent)!r})  # without the package, which takes seconds
from signals import NAMES, call_pickled, withheld_from_children

if __name__ == "__main__":
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    process = multiprocessing.get_context("{method}").Process(target=call_pickled, args=(pickle.dumps(time.sleep), 1))
    with withheld_from_children():
        process.start()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    for number in (signal.Signals[name] for name in NAMES):
        signal.signal(number, lambda *_: None)
        os.killpg(0, number)
    process.join()
    assert process.exitcode == 0, process.exitcode
"""
    (tmp_path / "program.py").write_text(program)
    words = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(words, start_new_session=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
