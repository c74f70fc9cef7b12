"""A checkpoint as a GGUF file, which llama.cpp and the programs around it open, with its tokenizer.

A decoder is written as the Llama, Qwen3, Arcee or GPT-2 that it equals, an encoder as EuroBERT or BERT. The weights are
float32.

llama.cpp reads three of our kinds of tokenizer differently:

* BERT's own WordPiece (`train-tokenizer --lowercase`) and GPT-2's byte-pair encoding it reads as we do.
* The lossless WordPiece it cannot read as we do, in any form. Whether ``he`` is the token ``he`` or ``##he`` depends on
  where a word begins, and llama.cpp (src/llama-vocab.cpp of llama-cpp-python 0.3.36) gives a piece of text one id
  wherever it stands: `token_to_id[word] = i` (line 2517; two ids of one spelling end the program, line 2544), from
  which BPE, SentencePiece, Unigram and PLaMo-2 (line 1386) read, and RWKV's trie (line 1321), which looks up the
  longest piece that follows, whatever stands before it. So what tells the two apart must be in the text itself:

  * BPE's expressions cut a text into words, but add no sign to them (line 621).
  * Unigram's table of replacements may add signs, but an entry is looked up by what follows alone (`normalize_prefix`,
    line 1171). A rest of a word would be replaced as if it began one, unless every word that occurs were an entry.
  * Tokens that are defined by the user are found in the text first (line 3255), wherever they stand.
  * WordPiece knows where words begin, but drops white space and control characters (lines 844 and 852).

  So the pieces are written in the form of RWKV, which spells every text exactly and reads most words as we do: what the
  model writes is right, and prompts should be ids, from `tokenizer.json` beside the file.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import transformers
from torch import Tensor
from transformers import BertTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_minibert.errors import UserError, needs_extra
from hf_minibert.export.convert import has_causal_mask, is_ours, open_checkpoint
from hf_minibert.export.folder import describe, exported_folder, shown_name
from hf_minibert.export.sentence_transformers import own_pooling, without_pooler
from hf_minibert.export.stock import from_stock, to_stock
from hf_minibert.tokenization import SPECIAL_TOKENS, lossless_pipeline, save_tokenizer, token_bytes

FILE = "model.gguf"
POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}
"""The poolings of llama.cpp, by the names of ours."""
TOKENIZERS = {
    "ids": "llama.cpp cannot read text as this tokenizer does: give it ids, from tokenizer.json, as below.",
    "bert": "llama.cpp reads the tokens itself, as BERT's WordPiece.",
    "gpt2": "llama.cpp reads the tokens itself, as GPT-2's byte-pair encoding.",
}


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp knows a stock architecture."""

    name: str
    activation: str
    """The only one that it computes."""
    interleaved: bool = False
    """Whether it turns neighbouring channels, where transformers turns channels of two halves."""
    transposed: tuple[str, ...] = ()
    """Weights that the stock class stores (in, out)."""


ARCHITECTURES = {
    "llama": Architecture("LLAMA", "silu", interleaved=True),
    "qwen3": Architecture("QWEN3", "silu"),
    "arcee": Architecture("ARCEE", "relu2", interleaved=True),
    "gpt2": Architecture("GPT2", "gelu_new", transposed=("c_attn.weight", "c_proj.weight", "c_fc.weight")),
    "eurobert": Architecture("EUROBERT", "silu"),
    "bert": Architecture("BERT", "gelu"),
}


def export(
    name_or_path: str,
    output_dir: str,
    *,
    to: str | None = None,  # noqa: ARG001
    pooling: str | None = None,
) -> dict[str, Any]:
    """Write a folder with a GGUF file and the tokenizer. Unchanged files of an earlier export there are replaced.

    Args:
        name_or_path: a checkpoint of ours, or of a stock class that has a counterpart here: a causal language model, or
            an encoder with or without a head, which is left out.
        output_dir: the folder to write.
        to: not needed; all targets take it.
        pooling: of an encoder, how llama.cpp makes a text's vector: `cls`, `mean` or `lasttoken`; default, as the
            checkpoint's classifier does, or `mean`.

    Returns:
        What `export.json` says.

    Raises:
        UserError: the library is missing, the checkpoint cannot be opened, llama.cpp has nothing that equals it, or the
            folder holds something else.
    """
    with needs_extra("gguf"):
        import gguf

    with exported_folder(name_or_path, output_dir, last=FILE) as folder:
        model, tokenizer = open_checkpoint(name_or_path)
        is_decoder = has_causal_mask(model)
        if is_decoder and not model.can_generate():
            raise UserError(f"{type(model).__name__} has a head that llama.cpp does not know; export a causal model")
        if is_decoder and pooling:
            raise UserError("pooling is for encoders; a causal model writes text, so leave it out")
        pooling = pooling or own_pooling(model) or "mean"
        if pooling not in POOLING:
            raise UserError(f"llama.cpp has no pooling {pooling!r}; --pooling may be {', '.join(POOLING)}")
        source = model if is_decoder else cast(PreTrainedModel, model.base_model)
        ours = source if is_ours(source) else from_stock(source)  # which refuses what llama.cpp would leave out
        source = to_stock(without_pooler(ours), mask_token_id=tokenizer.mask_token_id)
        architecture = architecture_of(source)
        form = form_of(tokenizer)
        writer = gguf.GGUFWriter(folder / FILE, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[architecture.name]])
        writer.add_name(shown_name(name_or_path))
        add_shape(writer, source, None if is_decoder else POOLING[pooling])
        add_tokens(writer, tokenizer, form, source.config.vocab_size)
        add_weights(writer, source, architecture)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        check_weights(folder / FILE, source, architecture)
        save_tokenizer(tokenizer, folder)
        end = "The text that it writes is right." if is_decoder else "It gives vectors; the model's head is left out."
        notes = [TOKENIZERS[form], *([end] if not is_decoder or form == "ids" else [])]
        record = {
            "model": shown_name(name_or_path),
            "from": type(model).__name__,
            "to": f"{type(source).__name__} in GGUF",
            "is_decoder": is_decoder,
            "pooling": None if is_decoder else pooling,
            "tokenizer": form,
            "checked": "The weights in the file are the model's, bit for bit.",
            "notes": notes,
            "gguf_version": gguf_version(),
            "transformers_version": transformers.__version__,
        }
        describe(
            folder,
            name_or_path,
            record,
            opening(record, '"."'),
            lost=" ".join(notes),
            library="gguf",
            tags=("gguf", "llama.cpp"),
            from_hub="begin with `Llama.from_pretrained` and `Tokenizer.from_pretrained`, which take its name",
            pipeline="text-generation" if is_decoder else "feature-extraction",
        )
    return record


def gguf_version() -> str:
    """The version of the library that writes the file."""
    from importlib.metadata import version

    return version("gguf")


def architecture_of(model: PreTrainedModel) -> Architecture:
    """What llama.cpp calls a stock model.

    Raises:
        UserError: it has no such model, or computes another activation or other positions.
    """
    config = model.config
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"llama.cpp has no counterpart of a {type(model).__name__} here; these have: {known}")
    activation = config.activation_function if config.model_type == "gpt2" else config.hidden_act
    if activation != architecture.activation:
        raise UserError(
            f"llama.cpp's {config.model_type} has hidden_act={architecture.activation!r}, this {type(model).__name__} "
            f"{activation!r}"
        )
    if config.model_type not in ("gpt2", "bert"):
        if config.rope_parameters["rope_type"] != "default":
            raise UserError(
                f"rope_parameters has rope_type {config.rope_parameters['rope_type']!r}, which this export does not "
                "write; only 'default'"
            )
        if config.attention_bias:
            raise UserError(f"use_bias=True, which llama.cpp's {config.model_type} does not have in all places")
    if config.model_type == "eurobert" and config.head_dim * config.num_attention_heads != config.hidden_size:
        raise UserError(f"head_dim={config.head_dim}, where llama.cpp's eurobert has hidden_size / num_attention_heads")
    return architecture


def form_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """How llama.cpp gets the tokenizer: a key of `TOKENIZERS`.

    Raises:
        UserError: not at all.
    """
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    if isinstance(tokenizer, BertTokenizer):
        rules = parts["normalizer"] or {}
        strips = rules.get("lowercase") if rules.get("strip_accents") is None else rules["strip_accents"]
        if not (rules.get("lowercase") and strips and rules.get("handle_chinese_chars")):
            raise UserError(
                "llama.cpp lowercases, strips accents and cuts Chinese characters apart before BERT's WordPiece, and "
                f"this tokenizer does not (normalizer {rules}); its ids would differ: export to onnx"
            )
        refuse_other_additions(tokenizer)
        return "bert"
    steps = parts["pre_tokenizer"] or {}
    if parts["model"]["type"] == "BPE" and parts["normalizer"] is None and steps.get("type") == "ByteLevel":
        if steps["use_regex"] and not steps["add_prefix_space"]:
            refuse_other_additions(tokenizer)
            return "gpt2"
    elif steps == json.loads(lossless_pipeline(SPECIAL_TOKENS).to_str())["pre_tokenizer"]:
        return "ids"
    raise UserError(
        "llama.cpp cannot read this tokenizer: it is neither ours, nor BERT's WordPiece, nor GPT-2's byte-pair encoding"
    )


def refuse_other_additions(tokenizer: PreTrainedTokenizerFast) -> None:
    """Check that llama.cpp adds to texts what a tokenizer adds, and finds in them the tokens that were added to it.

    Raises:
        UserError: it does not.
    """
    for ids in added_around(tokenizer):
        if len(ids) > 1:
            raise UserError(
                "llama.cpp adds at most one token before a text and one behind it, and this tokenizer adds "
                f"{' '.join(tokenizer.convert_ids_to_tokens(ids))}; its ids would differ: export to onnx"
            )
    rules = ["lstrip", "rstrip", "single_word"]
    if tokenizer.backend_tokenizer.normalizer is not None:
        rules.append("normalized")
    for token in tokenizer.added_tokens_decoder.values():
        unlike = [rule for rule in rules if getattr(token, rule)]
        if unlike and not token.special:
            raise UserError(
                f"llama.cpp finds an added token where a text spells it, and this tokenizer's {token.content!r} has "
                f"{' and '.join(unlike)}; its ids would differ: export to onnx"
            )


def added_around(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer adds before a text, and behind it."""
    row = tokenizer("a")
    places = row.sequence_ids()  # None where the tokenizer added something
    return row.input_ids[: places.index(0)], row.input_ids[len(places) - places[::-1].index(0) :]


def add_shape(writer: Any, model: PreTrainedModel, pooling: int | None) -> None:
    """Write the shape of a stock model, and an encoder's pooling."""
    import gguf

    config = model.config
    get = config.to_dict() | {name: getattr(config, name) for name in config.attribute_map}
    writer.add_context_length(get["max_position_embeddings"])
    writer.add_embedding_length(get["hidden_size"])
    writer.add_block_count(get["num_hidden_layers"])
    writer.add_feed_forward_length(get.get("n_inner") or get.get("intermediate_size") or 4 * get["hidden_size"])
    writer.add_head_count(get["num_attention_heads"])
    writer.add_vocab_size(get["vocab_size"])
    writer.add_file_type(0)  # all float32
    if "rms_norm_eps" in get:
        writer.add_head_count_kv(get["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(get["rms_norm_eps"])
        writer.add_rope_freq_base(get["rope_parameters"]["rope_theta"])
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    else:
        writer.add_layer_norm_eps(get.get("layer_norm_epsilon") or get["layer_norm_eps"])
    if pooling is not None:
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType(pooling))
        writer.add_token_type_count(get.get("type_vocab_size", 1))


def add_tokens(writer: Any, tokenizer: PreTrainedTokenizerBase, form: str, vocab_size: int) -> None:
    """Write the vocabulary in the form that llama.cpp reads, and which of its tokens are special."""
    import gguf

    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    special = set(tokenizer.all_special_ids) | {index for index, token in added.items() if token.special}
    defined = set() if form == "ids" else added.keys() - special
    if form == "ids":
        spelt = token_bytes(tokenizer)
        tokens = {
            index: names[index] if index in special else escaped(spelt[index], begins=not names[index].startswith("##"))
            for index in names
        }
    elif form == "bert":
        tokens = {
            index: name if index in special | defined else name[2:] if name.startswith("##") else "\u2581" + name
            for index, name in names.items()
        }
    else:
        tokens = names
        merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    kinds = {index: gguf.TokenType.CONTROL if index in special else gguf.TokenType.NORMAL for index in names}
    kinds |= dict.fromkeys(defined, gguf.TokenType.USER_DEFINED)
    unused = set(range(vocab_size)) - set(names)
    tokens |= {index: f"[unused{index}]" for index in unused}
    kinds |= dict.fromkeys(unused, gguf.TokenType.UNUSED)
    writer.add_tokenizer_model({"ids": "rwkv"}.get(form, form))
    if form == "gpt2":
        writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens[index] for index in range(vocab_size)])
    writer.add_token_types([kinds[index] for index in range(vocab_size)])
    before, behind = ([], []) if form == "ids" else added_around(tokenizer)
    roles = {role: getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "unk", "sep", "pad", "mask")}
    roles |= {role: ids[0] for role, ids in (("bos", before), ("eos", behind)) if ids}
    for role, index in roles.items():
        if index is not None:
            getattr(writer, f"add_{role}_token_id")(index)
    if form != "bert":  # of which llama.cpp knows what it adds
        writer.add_add_bos_token(bool(before))
        writer.add_add_eos_token(bool(behind))


def escaped(piece: bytes, *, begins: bool) -> str:
    r"""A piece of text in RWKV's escapes, spelt in one way where it begins a word, and in another within a word.

    Within a word the first byte is written `\x`, a sign from ``@`` to ``O``, and a digit. llama.cpp reads that sign as
    16 more than the digit that belongs there, which falls off the byte's end.
    """
    spelt = [chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in piece]
    if not begins and piece:
        spelt[0] = f"\\x{chr(0x40 + (piece[0] >> 4))}{piece[0] & 15:x}"
    return "".join(spelt)


def add_weights(writer: Any, model: PreTrainedModel, architecture: Architecture) -> None:
    """Write the weights under llama.cpp's names."""
    for name, weight in renamed(model, architecture).items():
        writer.add_tensor(name, np.ascontiguousarray(weight.numpy()))


def renamed(model: PreTrainedModel, architecture: Architecture) -> dict[str, Tensor]:
    """The weights of a stock model in float32, under llama.cpp's names and in its layout."""
    import gguf

    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.name], config.num_hidden_layers)
    found: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise UserError(f"llama.cpp has no place for the weight {name} of a {type(model).__name__}")
        part = weight.detach().float()
        if name.endswith(architecture.transposed):
            part = part.T
        if architecture.interleaved and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads
            halves = part.reshape(heads, 2, len(part) // heads // 2, *part.shape[1:])
            part = halves.transpose(1, 2).reshape(part.shape)
        found[theirs] = part.contiguous()
    return found


def check_weights(path: Path, model: PreTrainedModel, architecture: Architecture) -> None:
    """Read a file again.

    Raises:
        UserError: its weights are not the model's.
    """
    import gguf

    written = {tensor.name: np.asarray(tensor.data) for tensor in gguf.GGUFReader(path).tensors}
    expected = renamed(model, architecture)
    if written.keys() != expected.keys() or any(
        not np.array_equal(written[name], weight.numpy()) for name, weight in expected.items()
    ):
        raise UserError("the weights in the file are not the model's, which should not be; nothing was written")


def opening(record: dict[str, Any], name: str) -> str:
    """Python code that opens an export; `name` is the Python expression for its folder."""
    reads = record["tokenizer"] == "ids"
    lines = ["from llama_cpp import Llama"] + (["from tokenizers import Tokenizer"] if reads else []) + [""]
    if reads:
        lines.append(f'tokenizer = Tokenizer.from_file({name} + "/tokenizer.json")')
    if record["is_decoder"]:
        prompt = 'tokenizer.encode("The history of").ids' if reads else '"The history of"'
        lines += [
            f'model = Llama({name} + "/{FILE}", n_ctx=0)',
            f'print(model.create_completion({prompt}, max_tokens=40, temperature=0)["choices"][0]["text"])',
        ]
    else:
        if reads:
            lines += [
                "",
                "",
                "class Encoder(Llama):",
                "    def tokenize(self, text, add_bos=True, special=False):",
                "        return tokenizer.encode(text.decode()).ids",
                "",
                "",
            ]
        lines += [
            f'model = {"Encoder" if reads else "Llama"}({name} + "/{FILE}", n_ctx=0, embedding=True)',
            'print(model.embed("The cat sat on the mat."))',
        ]
    return "\n".join(lines) + "\n"
