"""Adapters: what learns, what is saved, and that merging changes nothing."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import REPOSITORY
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from hf_minibert.errors import UserError
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.durable import Watch
from hf_minibert.finetuning.finetune import finetune
from hf_minibert.presets import build_config
from hf_minibert.tokenization import load_tokenizer


@pytest.fixture(name="inputs", scope="module")
def _inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = load_tokenizer(REPOSITORY / "tokenizer")
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
    for name, model_class in (("minibert", AutoModelForMaskedLM), ("minigpt", AutoModelForCausalLM)):
        config = build_config(f"{name}-tiny", "modern", vocab_size=len(tokenizer), **sizes)
        model_class.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rows = [{"text": f"text {number} {number**2}", "label": "abc"[number % 3]} for number in range(50)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def asked(inputs: Path, output_dir: Path, model: str = "minibert", **others: Any) -> FinetuneArguments:
    settings = {
        "model_name_or_path": str(inputs / model),
        "dataset": str(inputs / "rows.jsonl"),
        "output_dir": str(output_dir),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "lora_rank": 4,
        "mixed_precision": "no",
    }
    return FinetuneArguments(**(settings | others))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own call
@pytest.mark.parametrize("model", ["minibert", "minigpt"])
def test_adapters_open_with_peft_and_merged_compute_the_same(
    model: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = asked(inputs, tmp_path / "adapters", model)
    end = Watch.on_step_end

    def stop(self: Watch, *event: Any, **more: Any) -> None:
        if event[1].global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        end(self, *event, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_step_end", stop)
        assert finetune(arguments) == 143
    assert finetune(replace(arguments, resume=True)) == 0
    assert finetune(replace(arguments, merge_lora=True, output_dir=str(tmp_path / "merged"))) == 0

    folder = tmp_path / "adapters"
    assert not (folder / "model.safetensors").exists()
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == model
    config = AutoConfig.from_pretrained(folder)
    assert list(config.id2label.values()) == ["a", "b", "c"]
    base = AutoModelForSequenceClassification.from_pretrained(inputs / model, config=config)
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    adapted = PeftModel.from_pretrained(base, folder).eval()
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    batch = AutoTokenizer.from_pretrained(folder)(
        ["a text", "another, which is longer"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        mine, whole = adapted(**batch).logits, merged(**batch).logits
        torch.testing.assert_close(mine, whole, rtol=0, atol=1e-5)
        with adapted.disable_adapter():
            assert (adapted(**batch).logits - mine).abs().max() > 1e-4, "they have learned"
    after = merged.state_dict()
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert not {name for name in moved if "embed" in name or "norm" in name}
    assert {name for name in moved if name.startswith(("classifier", "score"))}
    card = (folder / "README.md").read_text()
    assert "model = PeftModel.from_pretrained(base, " in card


def test_what_adapters_cannot_do(inputs: Path, tmp_path: Path) -> None:
    here = {"dataset": str(inputs / "rows.jsonl"), "output_dir": str(tmp_path / "out")}
    with pytest.raises(UserError, match="adapts a pre-trained model, and --model has new weights"):
        finetune(FinetuneArguments(model="minibert-tiny", lora_rank=4, **here))
    with pytest.raises(UserError, match="--merge_lora merges adapters, and there are none without --lora_rank"):
        asked(inputs, tmp_path / "out", lora_rank=None, merge_lora=True)
    with pytest.raises(UserError, match="lora_rank must be positive, got 0"):
        asked(inputs, tmp_path / "out", lora_rank=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_decoder_goes_on_learning_with_adapters(inputs: Path, tmp_path: Path) -> None:
    texts = [{"text": f"The king number {number} went to the sea."} for number in range(60)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    more = {"task": "causal-lm", "dataset": str(tmp_path / "texts.jsonl"), "learning_rate": 3e-2}
    folder = tmp_path / "adapters"
    assert finetune(asked(inputs, folder, "minigpt", **more)) == 0
    assert finetune(asked(inputs, tmp_path / "merged", "minigpt", merge_lora=True, **more)) == 0
    base = AutoModelForCausalLM.from_pretrained(inputs / "minigpt", config=AutoConfig.from_pretrained(folder))
    ids = AutoTokenizer.from_pretrained(folder)("The king went to the sea.", return_tensors="pt").input_ids
    with torch.no_grad():
        before = base.eval()(ids).logits
        adapted = PeftModel.from_pretrained(base, folder).eval()(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(ids).logits
    assert (adapted - before).abs().max() > 1e-3, "something was learned"
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-4)
