"""A checkpoint opens where this package is not installed: its code travels with it."""

import json

import pytest
import torch
from commands import elsewhere

READER = """
import json, pathlib, sys
import torch, transformers

try:
    import hf_minibert
except ImportError:
    pass
else:
    sys.exit("hf_minibert could be imported")
transformers.logging.set_verbosity_error()
folder, copies = sys.argv[1], pathlib.Path(sys.argv[2])
tokens = torch.tensor(json.loads(sys.argv[3]))
auto_map = json.loads((pathlib.Path(folder) / "config.json").read_text())["auto_map"]
found = {}

def first_output(model):
    with torch.no_grad():
        return model.eval()(tokens[None] if type(model).__name__.endswith("MultipleChoice") else tokens)[0]

SMOOTHED
try:
    transformers.AutoModel.from_pretrained(folder, trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code" in str(error)
else:
    sys.exit("code ran without being trusted")
for auto_name, reference in auto_map.items():
    if auto_name == "AutoConfig":
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
        assert type(config).__name__ == reference.split(".")[1]
        continue
    torch.manual_seed(0)
    auto_class = getattr(transformers, auto_name)
    model = auto_class.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__name__ == reference.split(".")[1]
    assert type(model).__module__.startswith("transformers_modules")
    found[auto_name] = first_output(model)
    if auto_name == "AutoModelForCausalLM":
        found["generated"] = model.generate(tokens, max_new_tokens=5, do_sample=False)
        found["smoothed"] = smoothed_loss(model)
    copy = copies / f"copy.of-{auto_name}"
    model.save_pretrained(copy)
    again = auto_class.from_pretrained(copy, trust_remote_code=True)
    torch.testing.assert_close(first_output(again), found[auto_name], rtol=0, atol=1e-6)
    assert json.loads((copy / "config.json").read_text())["auto_map"] == auto_map
torch.save(found, copies / "found.pt")
"""
SMOOTHED = """
def smoothed_loss(model):
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    arguments = transformers.TrainingArguments(
        output_dir=str(copies / "smoothed"), label_smoothing_factor=0.1, report_to="none", use_cpu=True
    )
    trainer = transformers.Trainer(model=model, args=arguments, eval_dataset=rows)
    return torch.tensor(trainer.evaluate()["eval_loss"])
"""


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("MiniBertForPreTraining", "mini-bert.v1.0"),
        ("MiniBertForSequenceClassification", "./some folder/2.mini-bert"),
        ("MiniGPTForCausalLM", "runs/my-gpt_v1.5-final"),
    ],
)
def test_every_auto_class(make_model, tokens, tmp_path, name, folder):
    model = make_model(name)
    model.save_pretrained(tmp_path / folder)
    copies = tmp_path / "elsewhere"
    copies.mkdir()
    elsewhere(READER.replace("SMOOTHED", SMOOTHED), tmp_path, folder, copies, json.dumps(tokens.tolist()))
    found = torch.load(copies / "found.pt")
    auto_map = json.loads((tmp_path / folder / "config.json").read_text())["auto_map"]
    assert found.keys() - {"generated", "smoothed"} == auto_map.keys() - {"AutoConfig"}
    with torch.no_grad():
        states = model.base_model(tokens)[0]
        assert torch.equal(found["AutoModel"], states)
        if name == "MiniBertForPreTraining":
            logits = model(tokens)[0]
            assert torch.equal(found["AutoModelForPreTraining"], logits)
            assert torch.equal(found["AutoModelForMaskedLM"], logits)
            assert torch.equal(found["AutoModelForNextSentencePrediction"], model(tokens)[1])
        elif name == "MiniBertForSequenceClassification":
            assert torch.equal(found["AutoModelForSequenceClassification"], model(tokens)[0])
        else:
            assert torch.equal(found["AutoModelForCausalLM"], model(tokens)[0])
            assert torch.equal(found["generated"], model.generate(tokens, max_new_tokens=5, do_sample=False))
            log = model(tokens).logits[:, :-1].log_softmax(dim=-1)
            told = -log.gather(2, tokens[:, 1:, None]).mean()
            torch.testing.assert_close(found["smoothed"], 0.9 * told - 0.1 * log.mean(), rtol=0, atol=1e-5)
