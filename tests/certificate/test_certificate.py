"""The certificate: sound checkpoints keep every line, and each line catches the fault that it is there for."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from commands import call
from safetensors.torch import load_file, save_file
from stock_models import stir
from transformers import AutoTokenizer

import hf_minibert
from hf_minibert.certificate import storage, text
from hf_minibert.certificate.attention import Failed
from hf_minibert.certificate.certificate import CERTIFICATE, LINES, certify, table
from hf_minibert.certificate.checkpoint import NotApplicable, open_folder
from hf_minibert.certificate.hard_strings import hard_strings
from hf_minibert.errors import UserError
from hf_minibert.files import Manifest, digest
from hf_minibert.hub.card import code_files
from hf_minibert.models import modeling_minibert, modeling_minigpt
from hf_minibert.presets import load_config
from hf_minibert.tokenization import adapt_tokenizer, save_tokenizer

SHAPE = {"vocab_size": 8192, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.1}
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
GPT2 = {"vocab_size": 8192, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.1}
STOCK = {
    "BertForMaskedLM": ("BertConfig", SHAPE),
    "BertForSequenceClassification": ("BertConfig", SHAPE),
    "RobertaForMaskedLM": ("RobertaConfig", SHAPE | {"pad_token_id": 0}),
    "DistilBertModel": (
        "DistilBertConfig",
        {"vocab_size": 8192, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    ),
    "GPT2LMHeadModel": ("GPT2Config", GPT2 | IDS),
    "GPT2Model": ("GPT2Config", GPT2 | IDS),
    "LlamaForCausalLM": ("LlamaConfig", SHAPE | IDS | {"num_key_value_heads": 2}),
    "Qwen2ForCausalLM": ("Qwen2Config", SHAPE | IDS | {"num_key_value_heads": 2}),  # whose tokenizer normalises
    "MambaForCausalLM": (
        "MambaConfig",
        {"vocab_size": 8192, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.1}
        | IDS,
    ),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"vocab_size": 8192, "d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 48}
        | {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 3},
    ),
}


def save(folder, model, tokenizer, kind="minibert"):
    adapted = adapt_tokenizer(tokenizer, model_type=kind, uses_token_types=False, model_max_length=64)
    model.save_pretrained(folder)
    save_tokenizer(adapted, folder)
    return folder


@pytest.fixture(name="encoder")
def _encoder(make_model, tokenizer, tmp_path):
    """The folder of a tiny MiniBERT."""
    return save(tmp_path / "encoder", make_model("MiniBertForMaskedLM", **SHAPE), tokenizer)


@pytest.fixture(name="decoder")
def _decoder(make_model, tokenizer, tmp_path):
    """The folder of a tiny MiniGPT."""
    return save(tmp_path / "decoder", make_model("MiniGPTForCausalLM", **SHAPE), tokenizer, "minigpt")


@pytest.mark.parametrize("kind", ["modern", "classic"])
def test_an_encoder_and_a_decoder_in_one(tokenizer, tmp_path, kind):
    torch.manual_seed(0)
    configs = (getattr(each, kind) for each in (hf_minibert.MiniBertConfig, hf_minibert.MiniGPTConfig))
    encoder = hf_minibert.MiniBertModel(next(configs)(**SHAPE))
    decoder = hf_minibert.MiniGPTForCausalLM(next(configs)(**SHAPE, add_cross_attention=True))
    model = hf_minibert.MiniEncoderDecoderModel(encoder=encoder, decoder=decoder)
    model.generation_config.decoder_start_token_id = 2
    model.generation_config.pad_token_id = 0
    certificate = certify(save(tmp_path / "both", model, tokenizer))
    assert {name for name, status in statuses(certificate).items() if status != "ok"} == {"export"}, table(certificate)


@pytest.fixture(name="stock", params=STOCK)
def _stock(request, tokenizer, tmp_path):
    """The folder of a tiny stock model."""
    config, fields = STOCK[request.param]
    torch.manual_seed(0)
    model = stir(getattr(transformers, request.param)(getattr(transformers, config)(**fields)))
    return save(tmp_path / request.param, model, tokenizer)


def statuses(certificate):
    return {line["name"]: line["status"] for line in certificate["lines"]}


def measured(certificate):
    return {line["name"]: line["measured"] for line in certificate["lines"]}


def test_a_sound_checkpoint_keeps_every_line(encoder, decoder):
    found = [certify(folder) for folder in (encoder, decoder)]
    for certificate, other in zip(found, ("causal", "bidirectional"), strict=True):
        inapplicable = {other} | ({"cache"} if other == "causal" else set())
        told = measured(certificate)
        if "has no counterpart" in told["export"] or "does not compute the same" in told["export"]:
            inapplicable.add("export")
        assert {name for name, status in statuses(certificate).items() if status != "ok"} == inapplicable, told
        assert certificate["holds"]
        assert table(certificate).count("\n") == len(LINES)
    assert [certificate["class"] for certificate in found] == ["MiniBertForMaskedLM", "MiniGPTForCausalLM"]


@pytest.mark.parametrize("name", ["minibert-tiny", "minigpt-tiny"])
def test_the_checkpoints_that_travel_with_the_package_hold(name):
    certificate = certify(Path(hf_minibert.__file__).parents[1] / "checkpoints" / name)
    assert "failed" not in statuses(certificate).values(), table(certificate)
    assert statuses(certificate)["export"] == "ok"


def test_stock_models_keep_what_their_kind_promises(stock):
    certificate = certify(stock)
    found = statuses(certificate)
    assert "failed" not in found.values(), table(certificate)
    is_decoder = stock.name.startswith(("GPT2", "Llama", "Qwen2", "Mamba"))
    is_both = stock.name.startswith("T5")
    assert (found["causal"] == "ok") == (is_decoder or is_both)
    assert (found["bidirectional"] == "ok") == (not is_decoder)
    assert (found["cache"] == "ok") == (is_decoder or is_both)
    assert {name for name, status in found.items() if status == "ok"} >= {"padding", "offsets", "saving"}
    assert (found["tokenizer"] == "ok") == (not stock.name.startswith("Qwen2"))


def test_an_encoder_that_is_saved_as_a_decoder_is_found_out(tokenizer, tmp_path):
    """As transformers makes it of BERT, unless `is_decoder` is said."""
    torch.manual_seed(0)
    config = transformers.BertConfig(**SHAPE, is_decoder=False)
    folder = save(tmp_path / "model", stir(transformers.BertLMHeadModel(config)), tokenizer)
    certificate = certify(folder)
    assert statuses(certificate)["causal"] == "failed"
    assert not certificate["holds"]


def fails(line, folder):
    """What a line says of a checkpoint that it fails."""
    with pytest.raises(Failed) as caught:
        holds(line, folder)
    return str(caught.value)


@torch.no_grad()
def holds(line, folder):
    return LINES[line][1](open_folder(folder))


def seeing(make, *, shown=(), hidden=()):
    """A mask function whose mask also shows, or hides, some (query, key) pairs, in rows that are long enough."""
    is_causal = make is modeling_minigpt.causal_mask

    def mask(config, hidden_states, attention_mask, packed=None, *others):
        base = make(config, hidden_states, attention_mask, packed, *others)
        length = hidden_states.shape[1]
        if base is None:
            base = torch.ones(length, length, dtype=torch.bool)
            base = (base.tril() if is_causal else base)[None, None]
        base = base.clone()
        for pairs, value in ((shown, True), (hidden, False)):
            for query, key in pairs:
                if max(query, key) < min(length, base.shape[-1]):
                    base[..., query, key] = value
        return base

    return mask


def test_one_later_token_that_is_seen_is_found(decoder, monkeypatch):
    holds("causal", decoder)
    monkeypatch.setattr(modeling_minigpt, "causal_mask", seeing(modeling_minigpt.causal_mask, shown=[(11, 12)]))
    assert "token 11 changed" in fails("causal", decoder)


def test_a_later_token_that_is_seen_only_after_a_cache_is_found(decoder, monkeypatch):
    make = modeling_minigpt.causal_mask

    def mask(config, hidden_states, attention_mask, packed=None, cache=None):
        base = make(config, hidden_states, attention_mask, packed, cache)
        is_part = cache is not None and cache.get_seq_length() > 0 and hidden_states.shape[1] > 1
        return torch.ones_like(base) if is_part else base

    monkeypatch.setattr(modeling_minigpt, "causal_mask", mask)
    assert fails("causal", decoder).startswith("after a cache")


def test_a_pair_of_tokens_that_do_not_see_each_other_is_found(encoder, monkeypatch):
    holds("bidirectional", encoder)
    make = seeing(modeling_minibert.bidirectional_mask, hidden=[(3, key) for key in range(5, 24)])
    monkeypatch.setattr(modeling_minibert, "bidirectional_mask", make)
    monkeypatch.setattr(
        modeling_minibert.MiniBertModel, "transform", first_layer(modeling_minibert.MiniBertModel.transform)
    )
    assert "token 3 stays as it is when token 5 changes" in fails("bidirectional", encoder)


def first_layer(transform):
    """Only the first layer: over two, a token also sees through others."""

    def one(self, *arguments, **settings):
        layers, self.layers = self.layers, self.layers[:1]
        states = transform(self, *arguments, **settings)
        self.layers = layers
        return states

    return one


MASKS = ((modeling_minibert, "bidirectional_mask"), (modeling_minigpt, "causal_mask"))


def test_a_packed_document_that_sees_its_neighbour_is_found(encoder, decoder, monkeypatch):
    for folder, (module, name) in zip((encoder, decoder), MASKS, strict=True):
        holds("packed", folder)
        monkeypatch.setattr(module, name, seeing(vars(module)[name], shown=[(5, 4)]))  # of two documents
        assert "documents in a row" in fails("packed", folder)


def test_a_cache_that_is_off_by_one_is_found(decoder, monkeypatch):
    holds("cache", decoder)
    positions = modeling_minigpt.MiniGPTModel.positions

    def late(self, input_ids, inputs_embeds, position_ids, seen=0):
        return positions(self, input_ids, inputs_embeds, position_ids, seen) + (1 if seen else 0)

    monkeypatch.setattr(modeling_minigpt.MiniGPTModel, "positions", late)
    assert "with a cache" in fails("cache", decoder)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 5, "early_stopping": True, "length_penalty": 2.0},
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"forced_bos_token_id": 7},
        {"forced_eos_token_id": 7, "suppress_tokens": [*range(2_000, 8_000)]},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("stock", ["T5ForConditionalGeneration", "GPT2LMHeadModel"], indirect=True)
def test_how_a_model_likes_to_write_is_no_fault_of_its_cache(stock, settings):
    path = stock / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    assert "8 tokens written are the likeliest" in holds("cache", stock)


def blind(make):
    """A mask function that takes padding for text."""
    return lambda config, states, _, *others: make(config, states, None, *others)


def test_padding_that_is_seen_is_found(encoder, decoder, monkeypatch):
    for folder, (module, name) in zip((encoder, decoder), MASKS, strict=True):
        holds("padding", folder)
        monkeypatch.setattr(module, name, blind(vars(module)[name]))
        assert "beside padding" in fails("padding", folder)


def test_a_tokenizer_that_lowercases_is_found(encoder):
    holds("tokenizer", encoder)
    path = encoder / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"normalizer": {"type": "Lowercase"}}))
    assert "hard strings come back as others" in fails("tokenizer", encoder)


def test_a_tokenizer_that_promises_nothing_is_told_apart(encoder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##a"]
    uncased = transformers.BertTokenizer(vocab={word: place for place, word in enumerate(words)}, do_lower_case=True)
    uncased.save_pretrained(encoder)
    with pytest.raises(NotApplicable, match="not byte-level"):
        holds("tokenizer", encoder)
    holds("offsets", encoder)


def test_a_model_that_compares_two_texts_does_not_promise_that_they_see_each_other(encoder):
    model = hf_minibert.MiniBertForSequenceClassification.from_pretrained(encoder, classifier_pooling="siamese")
    model.save_pretrained(encoder)
    with pytest.raises(NotApplicable, match="compares two texts in a row"):
        holds("bidirectional", encoder)


@pytest.mark.parametrize("shift", [1, -1])
def test_offsets_beside_the_words_are_found(encoder, monkeypatch, shift):
    holds("offsets", encoder)
    encoding = text.encoding

    def shifted(tokenizer, texts):
        found = dict(encoding(tokenizer, texts))
        for number, one in enumerate(texts):
            found["offset_mapping"][number] = [
                (max(0, start + shift), min(len(one), end + shift)) for start, end in found["offset_mapping"][number]
            ]
        return found

    monkeypatch.setattr(text, "encoding", shifted)
    assert "offsets" in fails("offsets", encoder)


def test_one_bit_that_saving_changes_is_found(decoder, monkeypatch):
    holds("saving", decoder)
    written = hf_minibert.MiniGPTForCausalLM.save_pretrained

    def damaged(self, *arguments, **settings):
        bits = self.model.layers[1].mlp.up_proj.weight.data.view(torch.int32)
        bits[0, 0] ^= 1
        written(self, *arguments, **settings)
        bits[0, 0] ^= 1

    monkeypatch.setattr(hf_minibert.MiniGPTForCausalLM, "save_pretrained", damaged)
    assert "up_proj" in fails("saving", decoder)


def test_an_export_that_computes_otherwise_is_found(decoder, monkeypatch):
    convert = storage.convert

    def damaged(model, to, **settings):
        stock = convert(model, to, **settings)
        with torch.no_grad():
            next(stock.parameters())[100:] *= 1.001
        return stock

    holds("export", decoder)
    monkeypatch.setattr(storage, "convert", damaged)
    assert "differs by" in fails("export", decoder)


def test_a_pickle_is_found(decoder):
    assert "would run this package's" in holds("files", decoder)
    (decoder / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin can run code" in fails("files", decoder)
    (decoder / "pytorch_model.bin").unlink()
    (decoder / "decoder").mkdir()
    (decoder / "checkpoint-5").mkdir()
    (decoder / "checkpoint-5" / "moments.pt").write_bytes(b"")  # what a run goes on from
    holds("files", decoder)
    (decoder / "decoder" / "weights.PKL").write_bytes(b"")
    assert "decoder/weights.PKL can run code" in fails("files", decoder)


def test_what_a_link_leads_to_is_found(decoder):
    """A snapshot in the Hub's cache holds nothing but links, and is sound for all that."""
    (decoder.parent / "blobs").mkdir()
    for path in [path for path in decoder.iterdir() if path.is_file()]:
        path.rename(decoder.parent / "blobs" / path.name)
        path.symlink_to(decoder.parent / "blobs" / path.name)
    holds("files", decoder)
    blob, link = decoder.parent / "blob", decoder / "pytorch_model.bin"
    blob.write_bytes(b"")
    link.symlink_to(blob)
    assert "pytorch_model.bin can run code" in fails("files", decoder)
    link.unlink()
    (decoder.parent / "elsewhere").mkdir()
    (decoder / "custom_generate").symlink_to(decoder.parent / "elsewhere")
    assert "custom_generate is a link to a folder" in fails("files", decoder)


@pytest.mark.parametrize("place", ["custom_generate/generate.py", "decoder/modeling_minigpt.py", "a/b/evil.py"])
def test_code_of_others_below_the_folder_is_found(decoder, place):
    """With trust_remote_code=True, transformers runs the first of them, without a word in config.json."""
    (decoder / "checkpoint-5").mkdir()
    (decoder / "checkpoint-5" / "evil.py").write_text("")  # what a run goes on from
    path = decoder / place
    path.parent.mkdir(parents=True)
    if (decoder / path.name).exists():
        path.write_bytes((decoder / path.name).read_bytes())
    holds("files", decoder)
    path.write_text("import os\n")
    assert f"{place} is not this package's code" in fails("files", decoder)


def test_code_of_others_is_found(decoder):
    path = decoder / "modeling_minigpt.py"
    source = path.read_text()
    path.write_text(source + "\nimport os\n")
    told = fails("files", decoder)
    assert "modeling_minigpt.py is not this package's code of this version" in told
    assert "save it into a new folder" in told
    open_folder(decoder).model.save_pretrained(decoder.parent / "renewed")
    assert (decoder.parent / "renewed" / path.name).read_text() == source
    path.write_text(source)
    (decoder / "evil.py").write_text("import os\n")
    assert "evil.py is not this package's code" in fails("files", decoder)
    (decoder / "evil.py").unlink()
    config = json.loads((decoder / "config.json").read_text())
    for name, entry in (("AutoModel", "somebody/else--modeling.Model"), ("AutoModel", "missing.Model")):
        changed = config | {"auto_map": config["auto_map"] | {name: entry}}
        (decoder / "config.json").write_text(json.dumps(changed))
        fails("files", decoder)
    (decoder / "config.json").write_text(json.dumps(config))
    path = decoder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": ["x.T", None]}}))
    assert storage._foreign_code(decoder) == {"x.T"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"custom_pipelines": {"text-classification": {"impl": "evil/repo--p.P", "pt": []}}}),
        ("target_tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "evil/repo--t.T"]}}),
    ],
)
@pytest.mark.filterwarnings("ignore:the saved config field 'custom_pipelines' is unknown")
def test_code_that_a_pipeline_or_a_second_tokenizer_would_run_is_found(decoder, name, content):
    path = decoder / name
    path.parent.mkdir(exist_ok=True)
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(before | content))
    assert "is not this package's code" in fails("files", decoder)
    if name == "config.json":
        with pytest.raises(UserError, match="has custom_pipelines, which name code that is not ours"):
            code_files(decoder)
        with pytest.raises(UserError, match="has custom_pipelines, which name code that is not run here"):
            load_config(str(decoder))


def change(folder, edit):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "up_proj.weight" in name)
    weights[name] = edit(weights[name].clone())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_weight_that_is_no_number_is_found(decoder):
    holds("finite", decoder)

    def edit(weight):
        weight[3, 5] = float("nan")
        return weight

    change(decoder, edit)
    assert "up_proj.weight has a weight that is not finite" in fails("finite", decoder)
    assert statuses(certify(decoder))["padding"] == "failed"


def test_a_weight_that_was_changed_after_it_was_written_is_found(decoder):
    name = "model.safetensors"
    assert "as it was written" not in holds("checksum", decoder)
    Manifest(decoder, "pretrain", {name: [{"sha256": digest(decoder / name)}]}).write()
    assert "as it was written" in holds("checksum", decoder)
    change(decoder, lambda weight: weight * 1.5)
    assert "not as it was written" in fails("checksum", decoder)


def test_the_decoder_of_a_hybrid_run_is_on_the_list_of_the_run(encoder, decoder, monkeypatch):
    name = "decoder/model.safetensors"
    decoder.rename(encoder / "decoder")
    Manifest(encoder, "pretrain", {name: [{"sha256": digest(encoder / name)}]}).write()
    assert "as it was written" in holds("checksum", encoder / "decoder")
    change(encoder / "decoder", lambda weight: weight * 1.5)
    monkeypatch.chdir(encoder / "decoder")
    for folder in (encoder / "decoder", Path()):
        assert "model.safetensors is not as it was written" in fails("checksum", folder)


def test_a_model_that_cannot_be_asked_fails_and_says_why(decoder, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("mat1 and mat2")

    monkeypatch.setattr(hf_minibert.MiniGPTModel, "forward", broken)
    certificate = certify(decoder)
    assert "RuntimeError: mat1 and mat2" in measured(certificate)["padding"]
    assert statuses(certificate)["finite"] == "ok"


def test_the_verb_prints_writes_and_tells_by_its_status(encoder, monkeypatch, capsys):
    state = torch.get_rng_state()
    assert call("check.py", monkeypatch, encoder) == 0
    assert torch.equal(torch.get_rng_state(), state)
    printed = capsys.readouterr().out
    assert all(words in printed for words, _ in LINES.values())
    content = json.loads((encoder / CERTIFICATE).read_text())
    assert content["model"] == "encoder"
    assert content["sha256"] == digest(encoder / "model.safetensors")
    (encoder / "weights.pkl").write_bytes(b"")
    assert call("check.py", monkeypatch, "--model_name_or_path", encoder) == 1
    assert "FAILED  safetensors only" in capsys.readouterr().out
    assert not json.loads((encoder / CERTIFICATE).read_text())["holds"]


def test_the_decoder_in_a_hybrid_run_is_checked_too(encoder, decoder, monkeypatch, capsys):
    decoder.rename(encoder / "decoder")
    assert call("check.py", monkeypatch, encoder) == 0
    printed = capsys.readouterr().out
    assert "a MiniBertForMaskedLM of" in printed
    assert "a MiniGPTForCausalLM of" in printed
    assert json.loads((encoder / "decoder" / CERTIFICATE).read_text())["class"] == "MiniGPTForCausalLM"
    assert call("check.py", monkeypatch, encoder, "--output_file", encoder / "one.json") == 2
    assert "holds two checkpoints" in capsys.readouterr().err


def test_mistakes_are_one_line(encoder, tmp_path, monkeypatch, capsys):
    def error(*words):
        assert call("check.py", monkeypatch, *words) == 2
        return capsys.readouterr().err

    assert "there is no folder nowhere" in error("nowhere")
    assert "hf download some/model" in error("some/model")
    assert "holds no model" in error(tmp_path)
    (encoder / CERTIFICATE).write_text("mine")
    assert "is no certificate, and is not replaced" in error(encoder)
    assert (encoder / CERTIFICATE).read_text() == "mine"
    config = (encoder / "config.json").read_text()
    for damaged in ({"hidden_size": "64"}, {"model_type": ["a"]}):
        (encoder / "config.json").write_text(json.dumps(json.loads(config) | damaged))
        assert "holds no model that opens" in (told := error(encoder, "--output_file", tmp_path / "c.json"))
        assert told.count("\n") == 1
    (encoder / "config.json").write_text(config)
    (encoder / "tokenizer.json").unlink()
    assert "holds no tokenizer that opens" in error(encoder, "--output_file", tmp_path / "c.json")
    change(encoder, lambda weight: weight)
    weights = load_file(encoder / "model.safetensors")
    save_file(dict(list(weights.items())[3:]), encoder / "model.safetensors", metadata={"format": "pt"})
    assert "is not a whole" in error(encoder, "--output_file", tmp_path / "c.json")


def test_hard_strings_are_the_same_for_a_seed_and_hard():
    strings = hard_strings(1_000)
    assert strings == hard_strings(1_000)
    assert hard_strings(10) == strings[:10]
    assert hard_strings(100, seed=1) != strings[:100]
    assert all(strings)
    joined = "".join(strings)
    joined.encode()  # every one can be written
    for needed in ("\U0001f468\u200d", "\u0308", "\u202b", "\x00", "\u2028", "\u00a0", "\ufeff", "#" * 40, "\u05d0"):
        assert needed in joined
    assert len(set(joined)) > 1_500
    assert max(map(ord, joined)) > 0x20000
    assert any(len(string) > 200 for string in strings)


def test_the_tokenizer_here_is_unmoved_by_the_text_of_a_special_token(encoder):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    (ids,) = text.encoding(tokenizer, ["a [MASK] b"])["input_ids"]
    assert tokenizer.mask_token_id not in ids
