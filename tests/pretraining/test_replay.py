import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import TINY_RUN, call, flags, write_corpus

from hf_minibert import MiniBertConfig, MiniBertForMaskedLM
from hf_minibert.pretraining.replay import loss_and_first_fault


def test_rows_are_those_of_all_processes_that_shared_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents=40)
    output = tmp_path / "run"
    options = TINY_RUN | {"corpus": corpus, "max_steps": 2, "output_dir": output, "per_device_train_batch_size": 4}
    assert call("pretrain.py", monkeypatch, *flags(options)) == 0
    saved = json.loads((output / "arguments.json").read_text())
    assert saved["num_processes"] == 1
    (output / "arguments.json").write_text(json.dumps(saved | {"num_processes": 3}))
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    capsys.readouterr()
    assert call("replay.py", monkeypatch, *flags({"output_dir": output, "step": 2})) == 0
    assert "step 2: rows 12 to 23, with the weights that the run began with" in capsys.readouterr().out


def test_rows_are_those_of_a_run_that_was_resumed_with_another_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    options = TINY_RUN | {"corpus": write_corpus(tmp_path / "corpus.jsonl", documents=40), "output_dir": output}
    options |= {"max_steps": 2, "save_steps": 2, "per_device_train_batch_size": 4}
    assert call("pretrain.py", monkeypatch, *flags(options)) == 0
    more = {"output_dir": output, "resume": True, "max_steps": 4, "per_device_train_batch_size": 2}
    assert call("pretrain.py", monkeypatch, *flags(more)) == 0
    capsys.readouterr()
    assert call("replay.py", monkeypatch, *flags({"output_dir": output, "step": 4})) == 0
    assert "step 4: rows 10 to 11, with " in capsys.readouterr().out
    shutil.rmtree(output / "checkpoint-2")  # which says where the change was
    assert call("replay.py", monkeypatch, *flags({"output_dir": output, "step": 1})) == 2
    assert "between step 0 and step 4 the run changed how many rows a step has" in capsys.readouterr().err


def test_the_first_module_whose_output_is_not_finite_is_named():
    config = MiniBertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    model = MiniBertForMaskedLM(config)
    tokens = torch.randint(5, 64, (1, 8))
    batch = {"input_ids": tokens, "labels": tokens}
    loss, fault = loss_and_first_fault(model, batch)
    assert torch.isfinite(loss)
    assert fault is None
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    loss, fault = loss_and_first_fault(model, batch)
    assert not torch.isfinite(loss)
    assert fault == "model.layers.1.mlp.up_proj"
    assert not any(module._forward_hooks for module in model.modules())
