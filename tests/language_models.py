"""Small language models of many classes, each with a tokenizer."""

from collections.abc import Callable

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from hf_minibert import MiniBertConfig, MiniBertForMaskedLM, MiniGPTConfig, MiniGPTForCausalLM
from hf_minibert.tokenization import adapt_tokenizer

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SHAPE |= {"max_position_embeddings": 64, "initializer_range": 0.2}
WORDS = ["the", "cat", "cats", "dog", "dogs", "sees", "see", "saw", "and", "a", "in", "park", "which", "who", "run"]
WORDS += ["runs", "##s", "##ning", "."]


def word_piece_tokenizer() -> BertTokenizer:
    """BERT's, of a few words; its uppercase letters are lost."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return BertTokenizer(vocab={word: number for number, word in enumerate([*specials, *WORDS])})


def byte_level_tokenizer(*, has_beginning: bool, is_roberta: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level one without merges, as GPT-2's and RoBERTa's are built."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab = {token: number for number, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=is_roberta)
    roles = {"eos_token": "</s>", "unk_token": "<unk>"} | ({"bos_token": "<s>"} if has_beginning else {})
    if is_roberta:
        roles |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def _ours(
    tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    kind = model.config.model_type
    return model, adapt_tokenizer(tokenizer, model_type=kind, uses_token_types=False, model_max_length=64)


def _stock(tokenizer: PreTrainedTokenizerBase, model_class: type, config: object) -> tuple[PreTrainedModel, object]:
    return model_class(config), tokenizer


STOCK = SHAPE | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
MAKERS: dict[str, Callable[[PreTrainedTokenizerFast], tuple[PreTrainedModel, PreTrainedTokenizerBase]]] = {
    "minibert": lambda own: _ours(own, MiniBertForMaskedLM(MiniBertConfig.modern(vocab_size=8192, **SHAPE))),
    "classic": lambda own: _ours(own, MiniBertForMaskedLM(MiniBertConfig.classic(vocab_size=8192, **SHAPE))),
    "hybrid": lambda own: _ours(
        own, MiniBertForMaskedLM(MiniBertConfig.modern(vocab_size=8192, shifted_predictions=True, **SHAPE))
    ),
    "minigpt": lambda own: _ours(own, MiniGPTForCausalLM(MiniGPTConfig.modern(vocab_size=8192, **SHAPE))),
    "bert": lambda _: _stock(word_piece_tokenizer(), BertForMaskedLM, BertConfig(vocab_size=24, **SHAPE)),
    "distilbert": lambda _: _stock(
        word_piece_tokenizer(),
        DistilBertForMaskedLM,
        DistilBertConfig(vocab_size=24, dim=32, n_layers=2, n_heads=4, hidden_dim=48, initializer_range=0.2),
    ),
    "roberta": lambda _: _stock(
        byte_level_tokenizer(has_beginning=True, is_roberta=True),
        RobertaForMaskedLM,
        RobertaConfig(vocab_size=261, **STOCK | {"max_position_embeddings": 66}),
    ),
    "gpt2": lambda _: _stock(
        byte_level_tokenizer(has_beginning=False),
        GPT2LMHeadModel,
        GPT2Config(vocab_size=261, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2),
    ),
    "llama": lambda _: _stock(
        byte_level_tokenizer(has_beginning=True), LlamaForCausalLM, LlamaConfig(vocab_size=261, **STOCK)
    ),
}
MASKED = ("minibert", "classic", "hybrid", "bert", "distilbert", "roberta")
