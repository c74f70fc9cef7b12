"""TRL: supervised fine-tuning on packed documents, of which none sees its neighbour, and preferences (DPO)."""

from typing import Any

from opening import Place, run

DOCUMENTS = ["The first document is about ships.", "Another one.", "The third is about the history of tea in England."]


def sft(place: Place) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(place.decoder)
    options = {"trust_remote_code": place.trust, "dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(place.decoder, **options)
    arguments = SFTConfig(
        output_dir=f"{place.out}/sft",
        max_steps=12,
        learning_rate=2e-3,
        lr_scheduler_type="constant",
        per_device_train_batch_size=1,
        packing=True,
        max_length=64,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    rows = Dataset.from_dict({"text": DOCUMENTS * 4})
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    # One packed row as the trainer feeds it, against each of its documents alone.
    packed = next(iter(trainer.get_train_dataloader()))
    batch = {name: packed[name] for name in ("input_ids", "position_ids") if name in packed}
    before = AutoModelForCausalLM.from_pretrained(place.decoder, **options).eval()
    starts = (packed["position_ids"][0] == 0).nonzero().flatten().tolist()
    ends = [*starts[1:], packed["input_ids"].shape[1]]
    leaks = []
    with torch.no_grad():
        together = before(**batch, use_cache=False).logits[0]  # with a cache, stock Llama looks for no documents
        for start, end in zip(starts, ends, strict=True):
            alone = before(input_ids=packed["input_ids"][:, start:end]).logits[0]
            leaks.append(float((together[start:end] - alone).abs().max()))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"documents": len(starts), "has_mask": "attention_mask" in packed, "leaks": leaks, "losses": losses}


def dpo(place: Place) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    model = AutoModelForCausalLM.from_pretrained(place.decoder, trust_remote_code=place.trust, dtype=torch.float32)
    rows = Dataset.from_dict(
        {"prompt": ["The sky is"] * 4, "chosen": [" blue."] * 4, "rejected": [" made of tea."] * 4}
    )
    arguments = DPOConfig(
        output_dir=f"{place.out}/dpo",
        trust_remote_code=place.trust,  # the reference model is opened by TRL
        max_steps=12,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        per_device_train_batch_size=2,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(place.decoder)
    trainer = DPOTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    return {"margins": [float(entry["rewards/margins"]) for entry in history], "loss": history[0]["loss"]}


def test_packed_documents_are_strangers(mode: str):
    found, expected = run(sft, mode), run(sft, "native")
    assert found["documents"] > 2
    assert not found["has_mask"], "the boundaries are in the positions"
    assert max(found["leaks"]) < 1e-4
    assert found["losses"][-1] < 0.5 * found["losses"][0]
    assert abs(found["losses"][0] - expected["losses"][0]) < 1e-3


def test_preferences(mode: str):
    found, expected = run(dpo, mode), run(dpo, "native")
    assert abs(found["loss"] - 0.6931) < 1e-3, "log 2: nothing preferred yet"
    assert found["margins"][-1] > 0.5
    assert abs(found["margins"][-1] - expected["margins"][-1]) < 0.2
