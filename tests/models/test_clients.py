"""What other libraries do with the models: servers, adapters, cross-encoders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from transformers import AttentionInterface, AutoModelForSequenceClassification, Qwen3Config
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

BASES = ("MiniBertModel", "MiniGPTModel")
POOLER = "model.pooler.dense.weight"


@pytest.mark.parametrize("name", BASES)
def test_a_server_attends_over_tokens_in_one_dimension(make_model, tokens, name):
    """As vLLM and SGLang do: the batch is a row of tokens, what is attended to comes from a keyword of theirs."""
    given = []

    def serve(module, query, key, value, attention_mask, scaling=None, attention_instances=None, **_):
        given.append((attention_instances[module.layer_idx], attention_mask))
        attend = ALL_ATTENTION_FUNCTIONS["sdpa"]
        attended, _ = attend(module, query, key, value, None, scaling=scaling, is_causal=module.is_causal)
        return attended.reshape(query.shape[2], -1), None

    AttentionInterface.register("served", serve)
    model, row, positions = make_model(name, "served"), tokens[:1], torch.arange(12)[None]
    options = {"use_cache": False, "return_dict": False, "attention_instances": {0: "first", 1: "second"}}
    (states, *_) = model(row, position_ids=positions, **options)
    assert given == [("first", None), ("second", None)]
    torch.testing.assert_close(states, make_model(name)(row).last_hidden_state, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("normalised", [False, True])
def test_the_plan_for_several_devices_names_every_matrix_of_the_block(make_model, architecture, normalised, gated):
    model = make_model("MiniGPTForCausalLM", qk_norm=normalised, gated_mlp=gated)
    plan = model.config.base_model_tp_plan
    if architecture == "classic":  # GPT-2 has none either
        assert plan is None
        return
    ends = {name.rsplit(".", 2)[-2] for name, weight in model.model.named_parameters() if weight.ndim == 2}
    in_layers = {name: how for name, how in plan.items() if name.startswith("layers.")}  # 5.17 adds the embeddings
    norms = {name: in_layers.pop(name) for name in list(in_layers) if name.endswith("_norm")}
    of_qwen3 = {name: how for name, how in Qwen3Config.base_model_tp_plan.items() if name.endswith("_norm")}
    assert norms == (of_qwen3 if normalised else {})
    assert {name.rsplit(".", 1)[-1] for name in in_layers} == ends - {"embed_tokens"}
    assert {name: how for name, how in in_layers.items() if how == "rowwise"} == {
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    assert "base_model_tp_plan" not in model.config.to_dict()


@pytest.mark.parametrize("name", BASES)
def test_trl_counts_the_documents_of_a_row_beside_their_positions(make_model, tokens, name):
    model, row = make_model(name), tokens[:1]
    documents = {"seq_idx": torch.tensor([[0] * 5 + [1] * 7])}
    positions = torch.cat((torch.arange(5), torch.arange(7)))[None]
    with torch.no_grad():
        (states, *_) = model(row, position_ids=positions, return_dict=False, **documents)
        alone = model(row[:, 5:]).last_hidden_state
    torch.testing.assert_close(states[:, 5:], alone, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="seq_idx is given without position_ids"):
        model(row, **documents)
    bounds = torch.tensor([0, 5, 12], dtype=torch.int32)  # as transformers' collator gives them, if asked for no more
    told = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 7, "max_length_k": 7}
    with pytest.raises(ValueError, match="cu_seq_lens_q is given without position_ids"):
        model(row, **told)
    with torch.no_grad():
        (again, *_) = model(row, position_ids=positions, return_dict=False, **told)
    torch.testing.assert_close(again, states)


@pytest.mark.parametrize("name", ["MiniBertForSequenceClassification", "MiniBertForMultipleChoice"])
def test_what_an_adapter_does_not_save_is_the_same_at_every_opening(make_model, tokens, tmp_path, name):
    """PEFT saves `classifier` and `score`, and leaves the pooler, which the pre-trained model lacks, as it found it."""
    make_model("MiniBertForMaskedLM").save_pretrained(tmp_path)
    model_class, opened = type(make_model(name)), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        opened.append(model_class.from_pretrained(tmp_path).eval())
    first, second = opened
    saved = {key: weight for key, weight in first.state_dict().items() if key.startswith(("classifier", "score"))}
    assert not torch.equal(*(model.state_dict()[next(iter(saved))] for model in opened)), "drawn by the seed"
    second.load_state_dict(saved, strict=False)
    rows = tokens[None] if name.endswith("Choice") else tokens
    assert torch.equal(first(rows).logits, second(rows).logits)
    # So in every process, on every machine: numpy promises these numbers.
    numbers = torch.from_numpy(np.random.RandomState(0).standard_normal((32, 32)) * 0.1).float()
    assert torch.equal(first.state_dict()[POOLER], numbers)


def test_a_pooler_that_was_trained_is_kept(make_model, tmp_path):
    pretrained = make_model("MiniBertForPreTraining")
    pretrained.save_pretrained(tmp_path)
    opened = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(opened.state_dict()[POOLER], pretrained.state_dict()[POOLER])
    torch.manual_seed(5)
    assert not torch.equal(type(pretrained)(pretrained.config).state_dict()[POOLER], pretrained.state_dict()[POOLER])


@pytest.mark.filterwarnings("ignore")  # of what sentence-transformers itself uses
@pytest.mark.parametrize("name", ["MiniBertForMaskedLM", "MiniBertForSequenceClassification"])
def test_a_cross_encoder_opens_trains_and_opens_again(make_model, tokenizer, tmp_path: Path, name):
    make_model(name, vocab_size=len(tokenizer), num_labels=1).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    encoder = CrossEncoder(str(tmp_path / "model"), num_labels=1, device="cpu")
    pairs = [("a question", "an answer"), ("another", "no answer at all")]
    before = encoder.predict(pairs, show_progress_bar=False)
    rows = Dataset.from_dict({"question": ["a question"] * 4, "answer": ["an answer"] * 4, "label": [1.0] * 4})
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=2,
        learning_rate=1e-2,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    CrossEncoderTrainer(model=encoder, args=arguments, train_dataset=rows).train()
    after = encoder.predict(pairs, show_progress_bar=False)
    assert after[0] > before[0]
    encoder.save_pretrained(str(tmp_path / "trained"))
    again = CrossEncoder(str(tmp_path / "trained"), device="cpu")
    np.testing.assert_allclose(again.predict(pairs, show_progress_bar=False), after, atol=1e-6)
