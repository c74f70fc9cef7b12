"""llama.cpp on our GGUF files: the same greedy text, the same vectors, every text restored, and tokens where it can."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

import hf_minibert
from hf_minibert.assets import model_folder
from hf_minibert.export.gguf import FILE, export
from hf_minibert.tokenization import SPECIAL_ROLES, adapt_tokenizer, load_tokenizer, train_wordpiece

pytestmark = pytest.mark.client
llama_cpp = pytest.importorskip("llama_cpp")

TEXTS = ["The cat sat on the mat.", "He opened the door, and went into the house; it was cold.", "naïve café #1"]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
STRANGE = [
    "",
    " ",
    "  a\n\n\tb ",
    "漢字 🙂",
    "naïve e\u0301",
    "a  . , ! ' s n't",
    "\x00\x7f\u0085\ufeff",
    "#" * 9,
    "x" * 200,
]
SENTENCES = ["the cat sat on the mat, and the mat was flat", "he opened the door and went into the house"] * 50


def opened(folder: Path, **options):
    return llama_cpp.Llama(str(folder / FILE), n_ctx=0, n_threads=1, verbose=False, **options)


def greedy(model, ids, length):
    found = []
    for token in model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        found.append(token)
        if len(found) == length:
            return found
    return found


def vectors(folder, rows):
    """The pooled vectors of rows of ids."""
    model = opened(folder, embedding=True)
    remaining = iter(rows)
    model.tokenize = lambda *_, **__: next(remaining)
    return F.normalize(torch.tensor([model.embed("") for _ in rows]).reshape(len(rows), -1), dim=-1)


def saved(folder, name, make, tokenizer, **fields):
    torch.manual_seed(0)
    config_class = vars(hf_minibert)[f"{name.split('For')[0]}Config"]
    config = getattr(config_class, make)(**SHAPE, vocab_size=len(tokenizer), initializer_range=0.1, **fields)
    model = vars(hf_minibert)[name](config).eval()
    model.save_pretrained(folder)
    uses_token_types = getattr(config, "type_vocab_size", 0) > 0
    own = adapt_tokenizer(
        tokenizer, model_type=config.model_type, uses_token_types=uses_token_types, model_max_length=512
    )
    own.save_pretrained(folder)
    return model, AutoTokenizer.from_pretrained(folder)


DECODERS = {
    "llama": ("modern", {}),
    "qwen3": ("modern", {"qk_norm": True}),
    "arcee": ("modern", {"gated_mlp": False, "hidden_act": "relu2"}),
    "gpt2": ("classic", {}),
}


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoder_writes_the_same_text(kind, tmp_path):
    make, fields = DECODERS[kind]
    tokenizer = load_tokenizer(model_folder("minigpt-tiny"))
    model, tokenizer = saved(tmp_path / "ours", "MiniGPTForCausalLM", make, tokenizer, **fields)
    export(str(tmp_path / "ours"), str(tmp_path / "gguf"))
    ids = tokenizer("The history of").input_ids
    expected = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert greedy(opened(tmp_path / "gguf"), ids, 20) == expected[0, len(ids) :].tolist()


def test_the_reference_decoder_writes_the_same_and_every_text_is_restored(tmp_path):
    folder = model_folder("minigpt-tiny")
    export(folder, str(tmp_path / "gguf"))
    model = hf_minibert.MiniGPTForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The history of").input_ids
    theirs = opened(tmp_path / "gguf")
    expected = model.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False, eos_token_id=None)
    found = greedy(theirs, ids, 30)
    assert found == expected[0, len(ids) :].tolist()
    assert theirs.detokenize(found).decode() == tokenizer.decode(found)
    for text in STRANGE:
        row = tokenizer(text, split_special_tokens=True).input_ids
        assert theirs.detokenize(row).decode() == text
    answer = theirs.create_completion(ids, max_tokens=30, temperature=0)["choices"][0]["text"]
    assert answer == tokenizer.decode(expected[0, len(ids) :])


def test_an_encoder_gives_the_same_vectors(tmp_path):
    folder = model_folder("minibert-tiny")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    rows = [tokenizer(text).input_ids for text in TEXTS]
    for pooling in ("mean", "cls"):
        export(folder, str(tmp_path / pooling), pooling=pooling)
        with torch.no_grad():
            states = [model(torch.tensor([row])).last_hidden_state[0] for row in rows]
        expected = torch.stack([each.mean(0) if pooling == "mean" else each[0] for each in states])
        difference = vectors(tmp_path / pooling, rows) - F.normalize(expected, dim=-1)
        assert difference.abs().max() < 1e-3


def test_berts_wordpiece_is_read_alike_and_its_encoder_gives_the_same_vectors(tmp_path):
    lower = train_wordpiece(SENTENCES, vocab_size=60, lowercase=True)
    model, tokenizer = saved(tmp_path / "ours", "MiniBertForMaskedLM", "classic", lower)
    export(str(tmp_path / "ours"), str(tmp_path / "gguf"))
    theirs = opened(tmp_path / "gguf", embedding=True)
    texts = ["The cat sat on the mat, and he went.", "HE opened   the house!", "the unknown word", "a"]
    for text in texts:
        assert theirs.tokenize(text.encode(), add_bos=True) == tokenizer(text).input_ids
    with torch.no_grad():
        rows = [torch.tensor([tokenizer(text).input_ids]) for text in texts]
        expected = F.normalize(torch.cat([model.base_model(row).last_hidden_state.mean(1) for row in rows]), dim=-1)
    found = F.normalize(torch.tensor([theirs.embed(text) for text in texts]).reshape(len(texts), -1), dim=-1)
    assert (found - expected).abs().max() < 1e-3


def test_byte_pairs_of_gpt2_are_read_alike(tmp_path):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = list(SPECIAL_ROLES.values())
    backend.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=300, special_tokens=specials, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL_ROLES)
    model, tokenizer = saved(tmp_path / "ours", "MiniGPTForCausalLM", "modern", tokenizer)
    assert export(str(tmp_path / "ours"), str(tmp_path / "gguf"))["tokenizer"] == "gpt2"
    theirs = opened(tmp_path / "gguf")
    for text in [*TEXTS, *STRANGE[1:]]:
        assert theirs.tokenize(text.encode(), add_bos=False) == tokenizer(text).input_ids, json.dumps(text)
    ids = tokenizer("the cat").input_ids
    expected = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert greedy(theirs, ids, 20) == expected[0, len(ids) :].tolist()
