"""The parts of the loop by themselves; runs as a whole are in tests/scripts and tests/invariants."""

import time
from pathlib import Path

import pytest
from commands import TINY_RUN, call, flags, write_corpus

from hf_minibert.training import pretrain
from hf_minibert.training.checkpoint import TrainState
from hf_minibert.training.pretrain import Clock, is_worth_evaluating


def evaluated_steps(num_steps: int) -> list[int]:
    state, steps = TrainState(), []
    for step in range(1, num_steps):
        state.step = step
        if is_worth_evaluating(state, (step - 1) / num_steps, step / num_steps):
            steps.append(step)
            state.evaluated_step = step
    return steps


def test_a_run_is_evaluated_at_each_fifth_but_not_too_often():
    assert evaluated_steps(500) == [100, 200, 300, 400]
    assert evaluated_steps(45) == [27]
    assert evaluated_steps(20) == []


def test_pauses_count_as_time_but_not_as_training(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = Clock(TrainState(seconds=50.0, training_seconds=40.0))
    now += 10
    clock.pause()
    now += 5
    clock.go_on()
    now += 1
    assert (clock.seconds(), clock.training_seconds()) == (66.0, 51.0)


def test_a_run_that_is_seldom_evaluated_is_saved_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pretrain, "SECONDS_BETWEEN_SAVES", 0)
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents=40)
    options = TINY_RUN | {"corpus": corpus, "output_dir": tmp_path / "run", "save_total_limit": 10}
    assert call("pretrain.py", monkeypatch, *flags(options)) == 0
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 4
