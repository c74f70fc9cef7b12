"""PEFT: LoRA on a decoder and on a classifier; the adapter is saved, opened on the same weights, and merged."""

from typing import Any

from opening import Place, run

TEXT = "The answer to this question is forty two."


def adapt(place: Place, auto_name: str, folder: str, task: str, batch: dict[str, Any], out: str) -> dict[str, Any]:
    import torch
    import transformers
    from peft import LoraConfig, PeftModel, get_peft_model

    auto_class = getattr(transformers, auto_name)
    options = {"trust_remote_code": place.trust, "dtype": torch.float32}
    base = auto_class.from_pretrained(folder, **options)
    model = get_peft_model(base, LoraConfig(task_type=task, r=4, target_modules="all-linear"))
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(15):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    model.eval().save_pretrained(out)
    with torch.no_grad():
        logits = model(**batch).logits
        opened = PeftModel.from_pretrained(auto_class.from_pretrained(folder, **options), out).eval()
        again = opened(**batch).logits
        merged = opened.merge_and_unload()(**batch).logits
    matrices = sum("lora_A" in name for name in trainable)
    return {
        "losses": losses,
        "matrices": matrices,
        "opened": float((again - logits).abs().max()),
        "merged": float((merged - logits).abs().max()),
    }


def job(place: Place) -> dict[str, Any]:
    import torch
    from transformers import AutoTokenizer

    row = AutoTokenizer.from_pretrained(place.decoder)(TEXT, return_tensors="pt")
    batch = {"input_ids": row["input_ids"], "attention_mask": row["attention_mask"]}
    decoder = adapt(
        place,
        "AutoModelForCausalLM",
        place.decoder,
        "CAUSAL_LM",
        batch | {"labels": row["input_ids"]},
        f"{place.out}/d",
    )
    labelled = batch | {"labels": torch.tensor([2])}
    classifier = adapt(
        place, "AutoModelForSequenceClassification", place.classifier, "SEQ_CLS", labelled, f"{place.out}/c"
    )
    return {"decoder": decoder, "classifier": classifier}


def test_peft(mode: str):
    found, expected = run(job, mode), run(job, "native")
    for part in ("decoder", "classifier"):
        assert found[part]["losses"][-1] < 0.5 * found[part]["losses"][0]
        assert found[part]["opened"] < 1e-5
        assert found[part]["merged"] < 1e-3
        assert abs(found[part]["losses"][0] - expected[part]["losses"][0]) < 1e-3
    assert found["decoder"]["matrices"] == expected["decoder"]["matrices"] > 4
