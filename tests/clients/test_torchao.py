"""torchao: eight-bit weights, and eight-bit activations beside them."""

from typing import Any

from opening import Place, run

TEXT = "He opened the door and went into the house, where the history of the world was written."


def job(place: Place) -> dict[str, Any]:
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    found: dict[str, Any] = {}
    for kind, config in (
        ("weights", Int8WeightOnlyConfig()),
        ("both", Int8DynamicActivationInt8WeightConfig()),
    ):
        for name, auto_class in (("encoder", AutoModelForMaskedLM), ("decoder", AutoModelForCausalLM)):
            folder = getattr(place, name)
            row = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")
            model = auto_class.from_pretrained(folder, trust_remote_code=place.trust, dtype=torch.float32).eval()
            with torch.no_grad():
                before = model(**row).logits
                quantize_(model, config)
                after = model(**row).logits
            kinds = {type(module.weight).__name__ for module in model.modules() if isinstance(module, torch.nn.Linear)}
            found[f"{kind} of {name}"] = {
                "agree": float((before.argmax(-1) == after.argmax(-1)).float().mean()),
                "change": float((before - after).abs().max()),
                "weights": sorted(kinds),
            }
    return found


def test_torchao(mode: str):
    found = run(job, mode)
    for name, one in found.items():
        assert any("Int8" in kind or "Affine" in kind for kind in one["weights"]), name
        assert 0 < one["change"] < 2.0, name
        assert one["agree"] > 0.8, name
