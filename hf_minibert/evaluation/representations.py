"""Texts as vectors: sorted by length, batched by tokens, and packed into rows without padding."""

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import (
    AttentionInterface,
    AutoModel,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER
from transformers.utils.logging import disable_progress_bar

from hf_minibert.assets import model_folder
from hf_minibert.errors import UserError
from hf_minibert.evaluation.arguments import EvaluateArguments, PoolingName
from hf_minibert.evaluation.opening import NOT_NUMBERS, open_config, open_tokenizer
from hf_minibert.evaluation.opening import max_length as longest_input
from hf_minibert.models.configuration_transformer import TransformerConfig
from hf_minibert.presets import load_pretrained
from hf_minibert.runs.attention import attention_function

logger = logging.getLogger(__name__)

Pooling = PoolingName
POOLINGS: tuple[Pooling, ...] = get_args(PoolingName)
Layer = int | Literal["average"]
Vectors = NDArray[np.float32]

PACKED = "hf_minibert_packed"
"""The name under which transformers knows `attend_within_documents`."""
BATCH_TOKENS = {"cpu": 1_024, "other": 16_384}
"""Tokens of a batch by default. On a CPU, the states of a larger one leave its caches."""
_TEXTS_AT_ONCE = 16_384  # are tokenized and sorted together
_SECONDS_WITHOUT_BAR = 2.0
_MOST_DIFFERENCE = 1e-5
_OUTPUTS = ("output_attentions", "output_hidden_states", "return_dict", "use_cache")  # change no state


def encode(
    texts: Sequence[str],
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    pooling: Pooling = "mean",
    layer: Layer | None = None,
    normalize: bool = False,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    device: str | torch.device | None = None,
) -> Vectors:
    """One vector for each text, from the states of its tokens.

    Args:
        texts: the texts; an empty one is a text.
        model: a folder, a name on the Hub, or a model: MiniBERT, MiniGPT, or any that `AutoModel` opens. Of one with a
            head, the body is used; of an encoder with a decoder, the encoder.
        tokenizer: the model's; default, the one in its folder.
        pooling: "mean" and "max" are over all tokens of a text, special ones included; "cls" is the first token's
            state, "last" the last one's, which alone sees the whole text in a decoder.
        layer: 0 is the embeddings, 1 the first layer; negative numbers count from the end. "average" is the mean of
            them all: it says more of the meaning than the last one, which was made to predict words. Default, the last.
        normalize: give every vector length 1, so that dot products are cosines.
        max_length: tokens at which a text is cut; default, and at most, what the model knows. What is cut is counted
            and said.
        batch_tokens: tokens that are computed together. Default, 1,024 on a CPU, 16,384 elsewhere.
        device: where to compute. Default, the model's own; for a folder, a GPU if there is one.

    Returns:
        (texts, hidden), float32, in the order of `texts`.

    Raises:
        UserError: the model cannot be opened or has no such layer, or an argument is out of its range.
    """
    encoder = Encoder(model, tokenizer, max_length=max_length, batch_tokens=batch_tokens, device=device)
    (vectors,) = encoder.pooled(texts, [(pooling, layer)])
    return normalized(vectors) if normalize else vectors


def normalized(vectors: Vectors) -> Vectors:
    """Vectors of length 1, (..., hidden) in and out; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    directions: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return directions


class Encoder:
    """A model that makes vectors of texts; `encode` explains its arguments."""

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise UserError(f"batch_tokens must be positive, got {batch_tokens}")
        if not isinstance(model, PreTrainedModel):
            opened = open_body(str(model))
            tokenizer = tokenizer or open_tokenizer(str(model))
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        elif tokenizer is None:
            raise UserError("a model was given without its tokenizer; give both, or the folder that holds them")
        else:
            opened = model
        self.model = body_of(opened)
        self.tokenizer = tokenizer
        least = tokenizer.num_special_tokens_to_add() + 1
        if max_length is not None and max_length < least:
            raise UserError(f"max_length must be {least} or more, special tokens and one of a text, got {max_length}")
        if device is not None:
            nn.Module.to(opened, device)
        self.device = self.model.device
        self.max_length = _longest(self.model, tokenizer, max_length)
        self.batch_tokens = batch_tokens or BATCH_TOKENS["cpu" if self.device.type == "cpu" else "other"]
        rope = getattr(self.model.config, "rope_parameters", None) or {}
        if rope.get("rope_type") == "longrope":  # whose rotations depend on the longest text of a batch
            self.batch_tokens = 1
        self._takes_cache = "use_cache" in inspect.signature(self.model.forward).parameters
        self.is_decoder = is_decoder(self.model)
        with _evaluating(self.model):
            self._packs = self._can_pack()

    @property
    def num_layers(self) -> int:
        """Layers, without the embeddings."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.model.config.get_text_config().hidden_size)

    def pooled(self, texts: Sequence[str], ways: Sequence[tuple[Pooling, Layer | None]]) -> list[Vectors]:
        """The vectors of all texts in several ways, each a pooling and a layer, for one pass through the model.

        Returns:
            (texts, hidden) for each way.

        Raises:
            UserError: there is no such pooling or layer, or the first token of a decoder was asked for.
        """
        if isinstance(texts, str):
            raise UserError("encode takes a list of texts, got one text; put it into a list")
        for pooling, layer in ways:
            self.check(pooling, layer)
        hidden = int(self.model.get_input_embeddings().weight.shape[1]) if not len(texts) else None
        found: list[Vectors] = [np.empty((0, hidden or 0), np.float32) for _ in ways]
        num_cut = 0
        with (
            _evaluating(self.model),
            tqdm(total=len(texts), desc="encoding", unit=" texts", delay=_SECONDS_WITHOUT_BAR, leave=False) as bar,
        ):
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                ids, cut = self._tokenize(list(texts[start : start + _TEXTS_AT_ONCE]))
                num_cut += cut
                for places in batches_by_length([len(one) for one in ids], self.batch_tokens, is_packed=self._packs):
                    vectors = self._vectors([ids[place] for place in places], ways)
                    if start == 0 and not found[0].size:
                        found = [np.empty((len(texts), each.shape[1]), np.float32) for each in vectors]
                    if any(bool(each.isnan().any()) for each in vectors):
                        raise UserError(NOT_NUMBERS.format(self.model.config.model_type))
                    for whole, part in zip(found, vectors, strict=True):
                        whole[start + np.array(places)] = part.numpy(force=True)
                    bar.update(len(places))
        if num_cut:
            logger.warning(
                "%d of %d texts are longer than %d tokens and were cut", num_cut, len(texts), self.max_length
            )
        return found

    def check(self, pooling: Pooling, layer: Layer | None) -> None:
        """Raise a UserError if there is no such pooling or layer."""
        if pooling not in POOLINGS:
            raise UserError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        if pooling == "cls" and self.is_decoder:
            raise UserError(
                f"the first token of a {self.model.config.model_type} sees no other, so pooling 'cls' says nothing of "
                "the text; take mean, max or last"
            )
        last = self.num_layers
        if layer not in (None, "average", *range(-last - 1, last + 1)):
            raise UserError(
                f"layer must be from 0 (embeddings) to {last}, or negative from the end, or average, got {layer}"
            )

    def _tokenize(self, texts: list[str]) -> tuple[list[list[int]], int]:
        """The token ids of each text, and how many texts were cut."""
        encoded = self.tokenizer(
            texts,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        if self.max_length is None:
            cut = 0
        elif encoded.encodings is not None:
            cut = sum(bool(one.overflowing) for one in encoded.encodings)
        else:  # a tokenizer in Python does not say
            cut = sum(len(ids) >= self.max_length for ids in encoded["input_ids"])
        ids: list[list[int]] = encoded["input_ids"]
        if not all(ids):
            begin = self.tokenizer.bos_token_id
            begin = self.tokenizer.eos_token_id if begin is None else begin  # with which GPT-2 begins
            if begin is None:
                raise UserError(
                    f"text {next(place for place, one in enumerate(ids) if not one)} has no tokens, and the tokenizer "
                    "has none that begins a text; leave empty texts out"
                )
            ids = [one or [begin] for one in ids]
        return ids, cut

    def _vectors(self, ids: list[list[int]], ways: Sequence[tuple[Pooling, Layer | None]]) -> list[Tensor]:
        """(rows, hidden) for each way, of texts with these token ids."""
        lengths = torch.tensor([len(one) for one in ids], device=self.device)
        states = self._packed_states if self._packs else self._padded_states
        layers = states(ids, all_layers=any(layer is not None for _, layer in ways))
        found: dict[Layer | None, Tensor] = {}
        for layer in {layer for _, layer in ways}:
            if layer == "average":
                found[layer] = torch.stack(list(layers)).mean(dim=0)
            else:
                found[layer] = layers[-1 if layer is None else layer]
        return [pool(found[layer].float(), lengths, pooling) for pooling, layer in ways]

    def _packed_states(self, ids: list[list[int]], *, all_layers: bool = False) -> list[Tensor]:
        """As `_padded_states`, from one row that holds all texts."""
        lengths = [len(one) for one in ids]
        inputs = {
            "input_ids": torch.tensor([[token for one in ids for token in one]], device=self.device),
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None].to(self.device),
            "documents": [(len(list(group)), length) for length, group in groupby(lengths)],
        }
        with attention_function(self.model, PACKED):
            return [states[0] for states in self._run(inputs, all_layers)]

    def _padded_states(self, ids: list[list[int]], *, all_layers: bool = False) -> list[Tensor]:
        """The states, (tokens, hidden), of the texts one behind another: of the last layer, or of all layers."""
        lengths = torch.tensor([len(one) for one in ids])
        real = torch.arange(int(lengths.max())) < lengths[:, None]
        rows = torch.full(real.shape, self.tokenizer.pad_token_id or 0)
        rows[real] = torch.tensor([token for one in ids for token in one])
        real = real.to(self.device)
        inputs = {"input_ids": rows.to(self.device), "attention_mask": real.long()}
        return [states[real] for states in self._run(inputs, all_layers)]

    def _run(self, inputs: dict[str, Any], all_layers: bool) -> Sequence[Tensor]:
        """The states, (rows, sequence, hidden), of the last layer, or of all from the embeddings on."""
        settings = {"use_cache": False} if self._takes_cache else {}
        outputs = self.model(**inputs, **settings, output_hidden_states=all_layers, return_dict=True)
        return outputs.hidden_states if all_layers else [outputs.last_hidden_state]

    def _can_pack(self) -> bool:
        """Whether texts in one row get the states that they get alone: ours do, nearly all, and others are tried."""
        if isinstance(self.model.config, TransformerConfig):
            pooler = getattr(self.model, "pooler", None)  # of a classifier; one that compares two texts needs a mask
            return pooler is None or pooler.pooling != "siamese"
        if not self.model._supports_attention_backend or self.model.dtype != torch.float32:
            return False
        most = min(len(self.tokenizer), int(self.model.config.get_text_config().vocab_size))
        numbers = torch.randint(most, (12,), generator=torch.Generator().manual_seed(0)).tolist()
        ids = [numbers[:5], numbers[5:8], numbers[8:11], numbers[11:]]
        try:
            (packed,) = self._packed_states(ids)
        except (TypeError, ValueError, IndexError, RuntimeError):  # it takes no positions, or gives attention more
            return False
        alone = torch.cat([self._padded_states([one])[0] for one in ids])
        scale = float(alone.abs().max().clamp(min=1))
        return packed.shape == alone.shape and float((packed - alone).abs().max()) <= _MOST_DIFFERENCE * scale


def attend_within_documents(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    documents: Sequence[tuple[int, int]] = (),
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    position_ids: Tensor | None = None,  # noqa: ARG001  # a packed row's, which the documents say already
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one row that holds several texts, none of which sees another; texts of a length are one batch.

    Args:
        module: the attention module; says whether it is causal, unless `is_causal` does.
        query: (1, heads, tokens, head_dim), as `key` and `value`, which may have fewer heads.
        key: see `query`.
        value: see `query`.
        attention_mask: None: there is no padding.
        documents: how many texts of which length follow one another.
        scaling: by what scores are multiplied.
        dropout: share of weights that is dropped.
        is_causal: whether a token sees only itself and those before it.
        position_ids: not used.
        kwargs: must be unset: what else attention functions take changes the result.

    Returns:
        (1, tokens, heads, head_dim), and no weights.

    Raises:
        TypeError: a mask or another keyword is set.
    """
    unknown = [name for name, value in kwargs.items() if name not in _OUTPUTS and value is not None]
    if attention_mask is not None or unknown:
        raise TypeError(f"packed rows have no {', '.join(unknown) or 'attention_mask'}")
    causal = module.is_causal if is_causal is None else is_causal
    attended, start = [], 0
    for count, length in documents:
        rows = slice(start, start + count * length)
        queries, keys, values = (
            states[0, :, rows].reshape(states.shape[1], count, length, -1).transpose(0, 1)
            for states in (query, key, value)
        )
        one = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            dropout_p=dropout,
            is_causal=bool(causal),
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        attended.append(one.transpose(1, 2).flatten(0, 1))
        start += count * length
    return torch.cat(attended)[None], None


AttentionInterface.register(PACKED, attend_within_documents)


def pool(states: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """(texts, hidden), of the (tokens, hidden) states of texts with these lengths, one behind another."""
    if pooling in ("mean", "max"):
        return torch.segment_reduce(states, pooling, lengths=lengths, axis=0)
    ends = lengths.cumsum(dim=0)
    return states[ends - 1 if pooling == "last" else ends - lengths]


def batches_by_length(lengths: Sequence[int], batch_tokens: int, *, is_packed: bool) -> Iterator[list[int]]:
    """Places of texts, the longest first, in batches of at most so many tokens; a longer text is a batch of its own.

    Args:
        lengths: tokens of each text.
        batch_tokens: tokens of a batch; in rows that are padded to the longest, unless `is_packed`.
        is_packed: whether a batch is one row without padding.
    """
    batch: list[int] = []
    tokens = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        longest = lengths[batch[0]] if batch and not is_packed else lengths[place]
        if batch and tokens + longest > batch_tokens:
            yield batch
            batch, tokens, longest = [], 0, lengths[place]
        batch.append(place)
        tokens += longest
    if batch:
        yield batch


def open_body(name: str, *, trust_remote_code: bool = False) -> Any:
    """A model without its head, in float32.

    Raises:
        UserError: there is none, or it is damaged or incomplete.
    """
    disable_progress_bar()  # of loading, which is short
    config = open_config(name, trust_remote_code=trust_remote_code)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModel
    settings = {"trust_remote_code": trust_remote_code, "config": config, "dtype": torch.float32}
    model, missing = load_pretrained(auto, model_folder(name), **settings)
    if lacking := sorted(each for each in missing if "pooler." not in each):
        raise UserError(f"{name} is not a whole model: it lacks {', '.join(lacking[:3])}; save it again")
    return model


def open_encoder(name: str, arguments: EvaluateArguments) -> Encoder:
    """A model to make vectors with, as the flags of an evaluation say.

    Raises:
        UserError: it or its tokenizer does not open, or it has no such layer or pooling.
    """
    trust = arguments.trust_remote_code
    encoder = Encoder(
        open_body(name, trust_remote_code=trust),
        open_tokenizer(name, trust_remote_code=trust),
        batch_tokens=arguments.batch_tokens,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    encoder.check(arguments.pooling, arguments.chosen_layer())
    return encoder


def body_of(model: PreTrainedModel) -> Any:
    """The part of a model that makes states of tokens: its body, and of an encoder with a decoder the encoder."""
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    return model.base_model


def is_decoder(model: PreTrainedModel) -> bool:
    """Whether the tokens of a model see none after them, as its attention modules say."""
    return any(getattr(module, "is_causal", False) for module in model.modules())


def _longest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, wanted: int | None) -> int | None:
    """Tokens at which a text is cut; None where nothing sets a limit."""
    known = [longest_input(model), tokenizer.model_max_length, wanted]
    return min((int(number) for number in known if number is not None and number < VERY_LARGE_INTEGER), default=None)


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """The block runs a model as in evaluation, without gradients."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
