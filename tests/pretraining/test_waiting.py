"""A GPU computes ahead: a step is left out where its gradient is not finite, and nobody waits to know it."""

import importlib
import itertools
import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from commands import TINY_RUN, call, flags, metrics, write_corpus
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_minibert.data.loader import training_batches
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.backend import Backend
from hf_minibert.pretraining.checkpoint import TrainState, load_state
from hf_minibert.pretraining.loop import Pretraining
from hf_minibert.pretraining.objectives import OBJECTIVES
from hf_minibert.pretraining.optimization import build_optimizers
from hf_minibert.pretraining.schedule import Clock, share_seconds
from hf_minibert.runs.stopping import StopSignal

META = torch.device("meta")


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_steps_are_left_out_on_the_device_as_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """Bit for bit; a CPU can do so as well, though it has nobody to wait for."""
    forward = Pretraining.forward

    def spoil_some(self: Pretraining, *arguments: Any) -> dict[str, torch.Tensor]:
        losses = forward(self, *arguments)
        return losses | ({"loss": losses["loss"] * torch.nan} if self.state.step in (0, 3, 4) else {})

    monkeypatch.setattr(Pretraining, "forward", spoil_some)
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents=40)
    options = TINY_RUN | {"corpus": corpus, "max_steps": 8, "save_steps": 4, "logging_steps": 4, "optimizer": optimizer}
    assert call("pretrain.py", monkeypatch, *flags(options | {"output_dir": tmp_path / "host"})) == 0
    monkeypatch.setattr(Backend, "decides_on_device", lambda *_: True)
    assert call("pretrain.py", monkeypatch, *flags(options | {"output_dir": tmp_path / "device"})) == 0
    for name in ("model.safetensors", "checkpoint-8/optimizer.pt"):
        assert (tmp_path / "device" / name).read_bytes() == (tmp_path / "host" / name).read_bytes()
    assert load_state(tmp_path / "device/checkpoint-8").skipped_steps_in_all == 3
    assert metrics(tmp_path / "device", "skipped_steps") == metrics(tmp_path / "host", "skipped_steps")
    assert json.loads((tmp_path / "device/results.json").read_text())["training"]["skipped_steps"] == 3


@pytest.mark.parametrize(
    ("name", "num_processes", "attention"),
    [
        *itertools.product(["clm", "mlm", "mlm+nsp", "hybrid"], [1, 2], ["sdpa"]),
        *itertools.product(["clm", "mlm"], [1], ["flash_attention_2"]),
    ],
)
def test_a_step_waits_for_no_device(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, name: Any, num_processes: int, attention: Any
) -> None:
    """A tensor on the meta device has no numbers: to read one, as a GPU would be waited for, fails.

    What several processes tell each other in each step goes through a group of their CPUs. FlashAttention is told where
    documents end, and gets no mask.
    """
    ends = list[int]()

    def attend(module: Any, query: Any, key: Any, value: Any, mask: None, cu_seq_lens_q: Any, **options: Any) -> Any:
        assert mask is None
        ends.append(len(cu_seq_lens_q))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, mask, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", attend)
    told = list[str]()
    monkeypatch.setattr(torch.distributed, "new_group", lambda backend, **_: backend)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda one, group: told.append(f"{one.device} {group}"))
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: False)  # which does not know the device, nor does this:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    objective = OBJECTIVES[name]
    base = {"clm": "MiniGPTForCausalLM", "mlm+nsp": "MiniBertForPreTraining"}.get(name, "MiniBertForMaskedLM")
    model = objective.model_class(make_model(base, **objective.config).config).train().to(META)
    model.config._attn_implementation = attention
    arguments = PretrainArguments(
        corpus=["x"],
        output_dir="x",
        gradient_accumulation_steps=2,
        weight_decay=0.1,
        learning_rate=1e-3,
        attn_implementation=attention,
    )
    accelerator = SimpleNamespace(
        device=META,
        num_processes=num_processes,
        is_main_process=True,
        is_fsdp2=False,
        accumulate=lambda _: nullcontext(),
        backward=lambda loss: loss.backward(),
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
    )
    backend: Any = Backend(accelerator)  # type: ignore[arg-type]
    backend.wrapped, backend.decides_on_device = model, lambda _: True
    backend.optimizers = backend.inner_optimizers = build_optimizers(model, arguments, learning_rate=1e-3)
    run: Any = SimpleNamespace(
        arguments=arguments,
        accelerator=accelerator,
        backend=backend,
        state=TrainState(first_loss=9.0),
        plan=SimpleNamespace(objective=objective),
        rows_per_step=4,
        unsettled=[],
    )

    run.count, run.forward = Pretraining.count.__get__(run), partial(Pretraining.forward, run)
    ids = torch.randint(5, model.config.vocab_size, (2, 12))
    batch = {"input_ids": ids, "labels": ids, "position_ids": torch.arange(12).expand(2, 12) % 7}
    if name == "mlm+nsp":
        batch["next_sentence_label"] = torch.tensor([0, 1])
        batch["attention_mask"] = (torch.arange(12) < torch.tensor([[12], [9]])).long()
        del batch["position_ids"]
    if name == "hybrid":
        batch["causal_rows"] = torch.tensor([False, True])
    if name != "clm":
        batch["labels"] = ids.where(ids % 3 == 0, -100)
    batch |= {place: find(batch) for place, find in objective.places.items()}
    for step in (1, 2):
        losses = Pretraining.step(run, iter([batch, batch]), 0.5, StopSignal())
        assert losses["loss"].device == META
        assert [one for one, _, _ in run.unsettled] == list(range(1, step + 1))
        share_seconds(Clock(TrainState()), backend)
    assert told == (["cpu gloo"] * 4 if num_processes > 1 else [])
    assert ends == ([5] * 8 if attention == "flash_attention_2" else [])  # two rows of 7 and 5, 2 layers, 4 batches


@pytest.mark.parametrize("name", ["mlm", "hybrid"])
def test_places_are_those_of_the_labels_and_change_no_bit(make_model: Any, name: Any) -> None:
    objective = OBJECTIVES[name]
    generator = np.random.default_rng(0)
    masked = [generator.random((3, 9)) < 0.3 for _ in range(4)]

    class Labelled:
        num_rows = 12

        def batch(self, epoch: int, rows: Any) -> dict[str, torch.Tensor]:
            ids = torch.from_numpy(5 + np.stack([(row + epoch + np.arange(9)) % 20 for row in rows]))
            chosen = torch.from_numpy(np.stack([masked[row // 3][row % 3] for row in rows]))
            of_rows = {"causal_rows": torch.from_numpy(rows % 2 == 0)} if name == "hybrid" else {}
            return {"input_ids": ids, "labels": ids.where(chosen, -100)} | of_rows

    model = objective.model_class(make_model("MiniBertForMaskedLM", **objective.config).config).train()
    for batch in training_batches(Labelled(), batch_size=5, last_row=25, places=objective.places):  # across epochs, too
        is_causal = batch.get("causal_rows", torch.zeros(5, dtype=torch.bool))[:, None]
        for place, is_kind in (("predicted_places", ~is_causal), ("causal_places", is_causal)):
            expected = ((batch["labels"] != -100) & is_kind).flatten().tolist()
            found = batch.get(place, torch.tensor([])).tolist()
            assert found == [at for at, is_there in enumerate(expected) if is_there]
        found = []
        for given in (batch, {one: batch[one] for one in batch if one not in objective.places}):
            model.zero_grad()
            torch.manual_seed(0)  # of dropout
            loss = model(**given).loss
            loss.backward()
            found.append([loss.detach(), *(one.grad for one in model.parameters() if one.grad is not None)])
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
