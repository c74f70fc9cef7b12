"""Export to GGUF: the file that llama.cpp opens. What it computes is tested in `clients/test_llama_cpp.py`."""

import json

import gguf
import pytest
import torch
import transformers
from commands import call
from tokenizers import AddedToken, Tokenizer, models, processors
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

from hf_minibert.errors import UserError
from hf_minibert.export.gguf import FILE, escaped, export, form_of
from hf_minibert.tokenization import adapt_tokenizer, token_bytes, train_wordpiece


def unescaped(text: str) -> bytes:
    """As llama.cpp reads it: `llama_unescape_rwkv_token`, in bytes that overflow."""
    found, rest = bytearray(), list(text.encode())
    while rest:
        byte = rest.pop(0)
        if byte != ord("\\"):
            found.append(byte)
            continue
        assert rest.pop(0) == ord("x")
        digits = [rest.pop(0) for _ in range(2)]
        high, low = (digit - ord("a") + 10 if digit >= ord("a") else digit - ord("0") for digit in digits)
        found.append(((high << 4) + low) & 255)
    return bytes(found)


def test_every_piece_has_two_spellings_that_say_the_same():
    for byte in range(256):
        for rest in (b"", b"a\\", b"\xff\n "):
            piece = bytes([byte]) + rest
            spelt = {escaped(piece, begins=begins) for begins in (True, False)}
            assert len(spelt) == 2
            assert {unescaped(text) for text in spelt} == {piece}


CELLS = [
    ("MiniGPTForCausalLM", "modern", {}, "llama"),
    ("MiniGPTForCausalLM", "modern", {"qk_norm": True}, "qwen3"),
    ("MiniGPTForCausalLM", "modern", {"gated_mlp": False, "hidden_act": "relu2"}, "arcee"),
    ("MiniGPTForCausalLM", "classic", {}, "gpt2"),
    ("MiniBertForMaskedLM", "modern", {}, "eurobert"),
    ("MiniBertForMaskedLM", "classic", {}, "bert"),
]


@pytest.mark.parametrize(("name", "architecture", "fields", "known_as"), CELLS)
def test_a_file_has_the_shape_the_weights_and_the_tokens(save, name, architecture, fields, known_as, tmp_path):
    model, folder = save(name, architecture, **fields)
    record = export(str(folder), str(tmp_path / "out"))
    assert record["tokenizer"] == "ids"
    reader = gguf.GGUFReader(tmp_path / "out" / FILE)
    values = {key: field.contents() for key, field in reader.fields.items()}
    assert values["general.architecture"] == known_as
    assert values[f"{known_as}.block_count"] == 2
    assert values[f"{known_as}.feed_forward_length"] == 48
    assert values.get(f"{known_as}.pooling_type") == (1 if known_as.endswith("bert") else None)
    weights = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    assert torch.equal(weights["token_embd.weight"], model.get_input_embeddings().weight)
    down = model.base_model.layers[1].mlp.down_proj.weight
    assert torch.equal(weights["blk.1.ffn_down.weight"], down)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = values["tokenizer.ggml.tokens"]
    assert len(set(tokens)) == len(tokens) == len(tokenizer), "llama.cpp asks for distinct ones"
    for index, piece in enumerate(token_bytes(tokenizer)):
        if index in tokenizer.all_special_ids:
            assert tokens[index] == tokenizer.convert_ids_to_tokens(index)
            assert values["tokenizer.ggml.token_type"][index] == gguf.TokenType.CONTROL
        else:
            assert unescaped(tokens[index]) == piece


def test_berts_own_wordpiece_is_read_as_it_is(save, tmp_path):
    _, folder = save("MiniBertForMaskedLM", "classic")
    lower = train_wordpiece(["the cat sat on the mat, and the mat was flat"] * 9, vocab_size=45, lowercase=True)
    own = adapt_tokenizer(lower, model_type="minibert", uses_token_types=True, model_max_length=64)
    own.add_tokens([AddedToken("<user>", normalized=False)])
    own.save_pretrained(folder)
    assert export(str(folder), str(tmp_path / "out"))["tokenizer"] == "bert"
    reader = gguf.GGUFReader(tmp_path / "out" / FILE)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    vocabulary = own.get_vocab()
    assert tokens[vocabulary["the"]] == "\u2581the"
    assert tokens[next(index for name, index in vocabulary.items() if name.startswith("##"))][0] != "#"
    assert tokens[vocabulary["<user>"]] == "<user>"
    assert tokens[len(vocabulary)] == f"[unused{len(vocabulary)}]"
    ends = [reader.fields[f"tokenizer.ggml.{role}_token_id"].contents() for role in ("bos", "eos")]
    assert ends == [own.cls_token_id, own.sep_token_id]


def test_stock_models_are_checked_as_if_they_had_been_ours(save, tmp_path):
    _, folder = save("MiniBertForMaskedLM", "classic")
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    stock = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=60, **shape))
    lower = train_wordpiece(["the cat sat on the mat, and the mat was flat"] * 9, vocab_size=45, lowercase=True)
    own = adapt_tokenizer(lower, model_type="minibert", uses_token_types=True, model_max_length=64)
    stock.save_pretrained(tmp_path / "bert")
    own.save_pretrained(tmp_path / "bert")
    export(str(tmp_path / "bert"), str(tmp_path / "out"))
    weights = {tensor.name: torch.tensor(tensor.data) for tensor in gguf.GGUFReader(tmp_path / "out" / FILE).tensors}
    assert torch.equal(weights["blk.0.attn_q.weight"], stock.bert.encoder.layer[0].attention.self.query.weight)

    for field in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        transformers.BertTokenizer(vocab=own.get_vocab(), **{field: False}).save_pretrained(tmp_path / "bert")
        with pytest.raises(UserError, match="its ids would differ"):
            export(str(tmp_path / "bert"), str(tmp_path / "cased"))

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path / "llama")
    llama = transformers.LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **shape)
    transformers.LlamaForCausalLM(llama).save_pretrained(tmp_path / "llama")
    with pytest.raises(UserError, match="num_key_value_heads"):
        export(str(tmp_path / "llama"), str(tmp_path / "grouped"))


def byte_pairs(folder, *added, special=False, **options):
    """A folder with a stock GPT-2 and its byte pairs, whose alphabet comes first; returns its tokenizer."""
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, "th", "<|endoftext|>"])}
    tokenizer = transformers.GPT2Tokenizer(vocabulary, [("t", "h")], **options)
    tokenizer.add_tokens(list(added), special_tokens=special)
    shape = {"n_embd": 32, "n_layer": 1, "n_head": 4, "bos_token_id": 257, "eos_token_id": 257}
    config = transformers.GPT2Config(vocab_size=len(tokenizer), **shape)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def values_of(folder):
    return {key: field.contents() for key, field in gguf.GGUFReader(folder / FILE).fields.items()}


@pytest.mark.parametrize("adds", [False, True])
def test_what_is_added_before_a_text_is_added_there(adds, tmp_path):
    tokenizer = byte_pairs(tmp_path / "gpt2", add_bos_token=adds)
    assert tokenizer("th").input_ids == [257] * adds + [256]
    assert export(str(tmp_path / "gpt2"), str(tmp_path / "out"))["tokenizer"] == "gpt2"
    values = values_of(tmp_path / "out")
    assert values["tokenizer.ggml.bos_token_id"] == 257
    assert (values["tokenizer.ggml.add_bos_token"], values["tokenizer.ggml.add_eos_token"]) == (adds, False)


def test_an_encoder_of_byte_pairs_has_its_first_and_last_token(save, tmp_path):
    _, folder = save("MiniBertForMaskedLM")
    vocabulary = {token: index for index, token in enumerate([*sorted(ByteLevel.alphabet()), "th"])}
    backend = Tokenizer(models.BPE(vocabulary, [("t", "h")]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    plain = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **roles)
    own = adapt_tokenizer(plain, model_type="minibert", uses_token_types=False, model_max_length=64)
    own.save_pretrained(folder)
    assert export(str(folder), str(tmp_path / "out"))["tokenizer"] == "gpt2"
    values = values_of(tmp_path / "out")
    assert [values[f"tokenizer.ggml.{role}_token_id"] for role in ("bos", "eos")] == [
        own.cls_token_id,
        own.sep_token_id,
    ]
    assert values["tokenizer.ggml.add_bos_token"]
    assert values["tokenizer.ggml.add_eos_token"]


@pytest.mark.parametrize("special", [False, True])
def test_an_added_token_is_one_that_llama_cpp_finds_first(special, tmp_path):
    tokenizer = byte_pairs(tmp_path / "gpt2", "<|user|>", special=special)
    assert tokenizer("th<|user|>").input_ids == [256, 258]
    export(str(tmp_path / "gpt2"), str(tmp_path / "out"))
    values = values_of(tmp_path / "out")
    assert values["tokenizer.ggml.tokens"][258] == "<|user|>"
    kinds = [gguf.TokenType(kind).name for kind in values["tokenizer.ggml.token_type"][256:]]
    assert kinds == ["NORMAL", "CONTROL", "CONTROL" if special else "USER_DEFINED"]


def test_added_tokens_that_llama_cpp_reads_otherwise_are_refused(tmp_path):
    byte_pairs(tmp_path / "gpt2", AddedToken("<|user|>", lstrip=True))
    with pytest.raises(UserError, match=r"'<\|user\|>' has lstrip; its ids would differ: export to onnx"):
        export(str(tmp_path / "gpt2"), str(tmp_path / "out"))
    tokenizer = byte_pairs(tmp_path / "gpt2")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> th $A", special_tokens=[("<|endoftext|>", 257), ("th", 256)]
    )
    with pytest.raises(UserError, match=r"at most one token before .* adds <\|endoftext\|> th; its ids would differ"):
        form_of(tokenizer)


REFUSALS = {
    "another activation": ("MiniGPTForCausalLM", "modern", {"hidden_act": "gelu"}, [], "has hidden_act='silu'"),
    "biases": ("MiniGPTForCausalLM", "modern", {"use_bias": True}, [], "use_bias=True"),
    "a head": ("MiniGPTForSequenceClassification", "modern", {}, [], "has a head that llama.cpp does not know"),
    "a pooling of a decoder": ("MiniGPTForCausalLM", "modern", {}, ["--pooling", "mean"], "pooling is for encoders"),
    "a pooling": ("MiniBertForMaskedLM", "modern", {}, ["--pooling", "max"], "llama.cpp has no pooling 'max'"),
    "positions": (
        "MiniGPTForCausalLM",
        "modern",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        [],
        "rope_type 'linear'",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_llama_cpp_does_not_compute_is_refused(case, save, tmp_path, monkeypatch, capsys):
    name, architecture, fields, words, message = REFUSALS[case]
    _, folder = save(name, architecture, **fields)
    flags = ["--model_name_or_path", folder, "--to", "gguf", "--output_dir", tmp_path / "out", *words]
    assert call("export.py", monkeypatch, *flags) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_it_says_how_to_open_the_file(save, tmp_path, monkeypatch, capsys):
    _, folder = save("MiniGPTForCausalLM")
    flags = ["--model_name_or_path", folder, "--to", "gguf", "--output_dir", tmp_path / "out"]
    assert call("export.py", monkeypatch, *flags) == 0
    printed = capsys.readouterr().out
    assert "The weights in the file are the model's, bit for bit." in printed
    assert "give it ids, from tokenizer.json" in printed
    card = (tmp_path / "out/README.md").read_text()
    assert "give it ids, from tokenizer.json" in card
    assert str(tmp_path) not in card + json.dumps(json.loads((tmp_path / "out/export.json").read_text()))
