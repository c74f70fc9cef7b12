"""What `Trainer` does for each batch."""

from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from hf_minibert import MiniBertConfig, MiniBertForSequenceClassification
from hf_minibert.finetuning import trainer as module
from hf_minibert.finetuning.trainer import ProportionateTrainer


def test_each_batch_has_the_attention_that_is_fastest_for_its_length(tmp_path: Any, monkeypatch: pytest.MonkeyPatch):
    """Though one row of the data may be long; and the model keeps it nowhere."""
    monkeypatch.setattr(module, "fastest_attention", lambda length: "eager" if length <= 8 else "sdpa")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = MiniBertForSequenceClassification(MiniBertConfig(vocab_size=50, **shape))
    used = []
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda layer, _: used.append((layer.training, layer.config._attn_implementation))
    )
    rows = [{"input_ids": torch.randint(5, 50, (length,)), "labels": 0} for length in (4, 20, 8, 9)]
    trainer = ProportionateTrainer(
        new_weights=set(),
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=1,
            per_device_eval_batch_size=1,
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        ),
        train_dataset=rows,
        eval_dataset=rows,
    )
    trainer.train()
    assert used == [(True, name) for name in ("eager", "sdpa", "eager", "sdpa")]
    used.clear()
    trainer.evaluate()
    assert set(used) == {(False, "sdpa")}
    model.save_pretrained(tmp_path)
    assert "eager" not in (tmp_path / "config.json").read_text()
