"""The parts of the loop by themselves; runs as a whole are in tests/scripts and tests/invariants."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import TINY_RUN, call, flags, write_corpus

from hf_minibert.data.streamed import StreamError, StreamStoppedError
from hf_minibert.pretraining import loop, plan, schedule
from hf_minibert.pretraining.backend import Backend
from hf_minibert.pretraining.checkpoint import TrainState
from hf_minibert.pretraining.objectives import OBJECTIVES
from hf_minibert.pretraining.report import trained_seconds
from hf_minibert.pretraining.schedule import Clock, End, ends_part, has_time_to_pause
from hf_minibert.runs.muon import Muon
from hf_minibert.runs.stopping import StopSignal


def evaluated_steps(num_steps: int) -> list[int]:
    state, steps = TrainState(), []
    for step in range(1, num_steps):
        state.step = step
        if ends_part(state, (step - 1) / num_steps, step / num_steps):
            steps.append(step)
            state.evaluated_step = step
    return steps


def test_a_run_is_evaluated_at_each_eighth_but_not_too_often():
    assert evaluated_steps(400) == [50, 100, 150, 200, 250, 300, 350]
    assert evaluated_steps(45) == [23]
    assert evaluated_steps(20) == []


def test_a_budget_is_for_training():
    budget, steps = End(600.0, None, None), End(None, 500, None)
    assert has_time_to_pause(TrainState(seconds=120.0, training_seconds=120.0), budget)
    slow, fast = TrainState(seconds=240.0, training_seconds=218.0), TrainState(seconds=240.0, training_seconds=236.0)
    assert not has_time_to_pause(slow, budget)
    assert has_time_to_pause(slow, steps), "where time is not the end, evaluations do not depend on it"
    assert has_time_to_pause(fast, budget)


@pytest.mark.parametrize(
    ("ends", "evaluated"),
    [
        ({"budget": "9h"}, [8]),
        ({"budget": "9h", "eval_steps": 4}, [4, 8]),
        ({}, [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_where_pauses_cost_too_much_a_run_is_still_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: dict[str, object], evaluated: list[int]
):
    monkeypatch.setattr(schedule, "SHARE_OF_PAUSES", -1.0)
    monkeypatch.setattr(schedule, "STEPS_BETWEEN_EVALUATIONS", 0)
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents=40)
    where = {"corpus": corpus, "output_dir": tmp_path / "run", "save_total_limit": 10, "compile": "no"}
    assert call("pretrain.py", monkeypatch, *flags(TINY_RUN | where | {"max_steps": 8} | ends)) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "eval_loss" in line] == evaluated
    saved = len(list((tmp_path / "run").glob("checkpoint-*")))
    assert saved == (2 if "eval_steps" in ends else 8)


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


def test_no_pause_holds_steps_that_the_device_has_yet_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A GPU computes later than it is asked to; what it is asked for between two lines of the log is training, too."""
    events = list[str]()

    def noted(name: str, original: Any) -> Any:
        return lambda *given, **more: events.append(name) or original(*given, **more)

    for owner, name in (
        *((loop.Pretraining, each) for each in ("step", "settle", "measure", "save")),
        *((Clock, each) for each in ("pause", "go_on")),
    ):
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    monkeypatch.setattr(Backend, "decides_on_device", lambda *_: True)  # else each step would settle itself
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents=40)
    options = {"corpus": corpus, "output_dir": tmp_path / "run", "max_steps": 8, "logging_steps": 100}
    options |= {"eval_steps": 3, "save_steps": 5}
    assert call("pretrain.py", monkeypatch, *flags(TINY_RUN | options)) == 0
    steps = " ".join(events[events.index("step") :]).split("step ")[1:]
    assert [step.split()[:3] for step in steps[2:5]] == [
        ["settle", "pause", "measure"],
        ["pause", "go_on"],
        ["settle", "pause", "save"],
    ]


def test_a_run_that_is_seldom_evaluated_is_saved_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0)
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents=40)
    options = TINY_RUN | {"corpus": corpus, "output_dir": tmp_path / "run", "save_total_limit": 10}
    assert call("pretrain.py", monkeypatch, *flags(options)) == 0
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 4


@pytest.mark.parametrize("objective", ["mlm", "mlm+nsp", "clm"])
def test_counts_are_known_without_waiting_for_the_device(objective: str):
    """A tensor on the meta device has no numbers: to read one, as a GPU would be waited for, fails."""
    labels = torch.tensor([[-100, 7, 8, -100], [5, -100, -100, 9]])
    batch = {"input_ids": torch.ones_like(labels), "labels": labels, "next_sentence_label": torch.tensor([0, 1])}
    run = SimpleNamespace(
        plan=SimpleNamespace(objective=OBJECTIVES[objective]),
        accelerator=SimpleNamespace(device=torch.device("meta")),
        backend=SimpleNamespace(sum_on_cpu=lambda own: own),
    )
    counts, tokens = loop.Pretraining.count(run, [batch, batch], StopSignal())
    assert tokens == 16
    assert {count.device.type for count in counts.values()} == {"meta"}


@pytest.mark.parametrize(
    ("mine", "other", "expected", "message"),
    [
        (StreamError("cut off"), [0, 0], StreamError, "cut off"),
        (None, [0, 1], StreamError, "another process could not read the stream"),
        (None, [1, 0], StreamStoppedError, "another process was stopped"),
        (StreamStoppedError("stopped"), [0, 0], StreamStoppedError, "stopped"),
        (StreamStoppedError("stopped"), [0, 1], StreamError, "another process could not read the stream"),
    ],
)
def test_a_stream_that_one_process_cannot_read_ends_the_step_of_all(
    mine: StreamError | None, other: list[int], expected: type[StreamError], message: str
):
    """Before anything is computed, in the exchange that each step has; or they would wait for each other for hours."""
    ids = torch.ones((2, 4), dtype=torch.int64)
    batches = [] if mine else [{"input_ids": ids, "labels": ids}]
    theirs = torch.tensor([8 if sum(other) == 0 else 0] * 2 + [0, *other])
    run: Any = SimpleNamespace(
        plan=SimpleNamespace(objective=OBJECTIVES["clm"]),
        accelerator=SimpleNamespace(device=torch.device("cpu")),
        backend=SimpleNamespace(sum_on_cpu=lambda own: own + theirs),
    )
    with pytest.raises(StreamError, match=message) as caught:
        loop.Pretraining.count(run, batches, StopSignal(), mine)
    assert type(caught.value) is expected


def test_the_speed_of_a_run_leaves_out_compiling_unless_that_was_all():
    assert trained_seconds(TrainState(training_seconds=30.0, compile_seconds=10.0)) == 20.0
    assert trained_seconds(TrainState(training_seconds=30.0, compile_seconds=30.0)) == 30.0


def test_muon_waits_for_no_device(make_model):
    model = make_model("MiniGPTForCausalLM").to("meta")
    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    for weight in matrices:
        weight.grad = torch.empty_like(weight)
    torch.nn.utils.clip_grad_norm_(matrices, 1.0)
    Muon(matrices, lr=0.1).step()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch 2.13 does, for masks
@pytest.mark.parametrize(
    ("model", "objective"),
    [("minibert-tiny", "mlm"), ("minibert-tiny", "mlm+nsp"), ("minibert-tiny", "hybrid"), ("minigpt-tiny", "clm")],
)
def test_a_run_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, objective: str):
    """However many tokens its steps predict, and whatever is evaluated between them."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(plan, "has_compiler", lambda: True)
    monkeypatch.setattr(
        Backend, "compile", lambda _, trained: trained.compile(fullgraph=True, backend="eager")
    )  # the graphs, without their kernels
    options = {"corpus": write_corpus(tmp_path / "texts.jsonl"), "output_dir": tmp_path / "run", "report_to": "none"}
    options |= {"model": model, "objective": objective, "compile": "yes", "max_steps": 8, "eval_steps": 3}
    assert call("pretrain.py", monkeypatch, *flags(TINY_RUN | options)) == 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
