# Copyright 2026 The hf_minibert authors.
"""The one Transformer under MiniBERT and MiniGPT. It applies the mask that it is given."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import is_flash_attention_requested

from .caches import CACHE_NAME, AnyCache, is_watched, one_cache
from .compiling import in_memory
from .configuration_transformer import TransformerConfig
from .losses import is_plain
from .masks import Mask

Rotation = tuple[Tensor, Tensor]


class ForwardKwargs(TypedDict, total=False):
    """Keywords that every `forward` takes beside its arguments and hands on; not every model uses them."""

    output_attentions: bool
    output_hidden_states: bool
    return_dict: bool
    cu_seq_lens_q: Tensor
    cu_seq_lens_k: Tensor
    max_length_q: int
    max_length_k: int
    seq_idx: Tensor
    """The document of each token, which TRL gives beside positions that restart with each document."""


class ResidualProjection(nn.Linear):
    """The linear layer that ends a residual branch, which may start smaller (see `_init_weights`)."""


def project(states: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """What several linear layers make of the same states: in training by one product, of which each has a part.

    The layers stay apart, for checkpoints, optimizers and all who replace one. A layer that was replaced, quantised,
    adapted, split over devices or given hooks computes by itself, and so do all in inference, where joining the weights
    would cost more than it saves.

    Args:
        states: (..., in features).
        layers: with the same number of in features; all or none have a bias.
    """
    if not layers[0].training or not all(is_plain(layer) for layer in layers):
        return tuple(layer(states) for layer in layers)
    weight = torch.cat([layer.weight for layer in layers])
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return F.linear(states, weight, bias).split([layer.out_features for layer in layers], dim=-1)


def make_norm(config: TransformerConfig, width: int | None = None) -> nn.Module:
    """The normalisation that the configuration names, of `width` channels; default, `hidden_size`."""
    kind = nn.RMSNorm if config.norm_type == "rms_norm" else nn.LayerNorm
    return kind(width or config.hidden_size, eps=config.norm_eps)


def look_up(embedding: nn.Embedding, ids: Tensor, name: str) -> Tensor:
    """The embeddings of (batch, sequence) ids.

    Raises:
        ValueError: an id is beyond the table, on a CPU. Elsewhere a check would wait for the device, which reports the
            index error itself.
    """
    try:
        return embedding(ids)
    except IndexError as error:
        raise ValueError(
            f"{name} must be from 0 to {embedding.num_embeddings - 1}, got {int(ids.min())} to {int(ids.max())}; "
            + (
                "max_position_embeddings says how long a text may be"
                if name == "position_ids"
                else "were they made for another model?"
            )
        ) from error


class RotaryEmbedding(nn.Module):
    """Rotary positions (Su et al. 2021, arXiv:2104.09864), in the half-rotation layout of Llama.

    Nothing is stored. Each call computes the frequencies, so they are float32 in a model of any type, and they exist in
    a model that was built on the meta device.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config

    def frequencies(self, position_ids: Tensor) -> tuple[Tensor, float]:
        """The angle by which each pair of channels turns per position, and a factor for cosines and sines."""
        rope, width, device = self.config.rope_parameters, self.config.head_dim, position_ids.device
        assert rope is not None
        assert width is not None
        if rope["rope_type"] != "default":
            return ROPE_INIT_FUNCTIONS[rope["rope_type"]](self.config, device, seq_len=position_ids.max() + 1)
        exponents = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
        return 1.0 / rope["rope_theta"] ** exponents, 1.0

    def forward(self, position_ids: Tensor, dtype: torch.dtype) -> Rotation:
        """Cosines and sines of the angles, each (batch, 1, sequence, head_dim), of (batch, sequence) positions."""
        frequencies, factor = self.frequencies(position_ids)
        angles = position_ids[:, None, :, None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return in_memory((angles.cos() * factor).to(dtype)), in_memory((angles.sin() * factor).to(dtype))


def rotate(states: Tensor, rotation: Rotation) -> Tensor:
    """Turn (batch, heads, sequence, head_dim) states by their positions' angles."""
    cos, sin = rotation
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention in plain torch, which also returns the weights; (batch, heads, sequence, head_dim) in.

    The other arguments of transformers' attention interface (sliding windows, `cu_seq_lens`...) have no use here.
    """
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


OWN_ARGUMENTS = ("module", "query", "key", "value", "attention_mask", "scaling", "dropout", "is_causal")
"""Arguments that only `Attention` may give to an attention function; a caller may not."""


@torch.compiler.assume_constant_result
def takes(implementation: str, keyword: str) -> bool:
    """Whether an attention function has a use for a keyword that was given to `forward`.

    transformers' own functions, and `eager_attention`, accept every keyword and ignore those that they do not name. Any
    other function that accepts every keyword is assumed to use it.

    Args:
        implementation: the function's name, as in `config._attn_implementation`.
        keyword: the keyword's name.
    """
    function = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
    while isinstance(function, partial):
        function = function.func
    parameters = inspect.signature(function).parameters
    if keyword in OWN_ARGUMENTS:
        return False
    if keyword in parameters:
        return True
    is_known = function is eager_attention or function.__module__.split(".")[0] == "transformers"
    return not is_known and any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def document_bounds(position_ids: Tensor) -> dict[str, Any]:
    """Where the documents of packed rows begin and end, as FlashAttention's keywords.

    transformers finds them by itself only if the batch is a single row.

    Args:
        position_ids: (batch, sequence); a document ends where the next position is not one more.
    """
    begins = (position_ids.diff(prepend=position_ids[:, :1]) != 1).flatten().nonzero().flatten()
    bounds = F.pad(begins, (0, 1), value=position_ids.numel()).to(torch.int32)
    longest = int(bounds.diff().max())
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762) through transformers' attention interface.

    A sequence attends to itself; or, in cross-attention, to the states of an encoder.
    """

    def __init__(self, config: TransformerConfig, layer_idx: int, is_causal: bool) -> None:
        super().__init__()
        assert config.head_dim is not None
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal  # SDPA reads this where no mask is needed
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        width, inner, bias = config.hidden_size, config.num_attention_heads * config.head_dim, config.use_bias
        self.q_proj = nn.Linear(width, inner, bias=bias)
        self.k_proj = nn.Linear(width, inner, bias=bias)
        self.v_proj = nn.Linear(width, inner, bias=bias)
        self.o_proj = ResidualProjection(inner, width, bias=bias)
        self.q_norm = make_norm(config, config.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, config.head_dim) if config.qk_norm else nn.Identity()

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Mask,
        rotation: Rotation | None = None,
        encoder_hidden_states: Tensor | None = None,
        past_key_values: AnyCache | None = None,
        cache: AnyCache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """(batch, sequence, hidden) in and out; `kwargs` go to the attention function (`cu_seq_lens_q`...)."""
        cache = one_cache(past_key_values, cache)
        if encoder_hidden_states is not None:
            query = self.q_norm(self.split_heads(self.q_proj(hidden_states)))
            key, value = self.encoder_keys_and_values(encoder_hidden_states, cache)
        else:
            query, key, value = map(self.split_heads, project(hidden_states, self.q_proj, self.k_proj, self.v_proj))
            query, key = self.q_norm(query), self.k_norm(key)
            if rotation is not None:
                query, key = rotate(query, rotation), rotate(key, rotation)
            if isinstance(cache, EncoderDecoderCache):
                cache = cache.self_attention_cache
            if not isinstance(cache, PagedAttentionCache):
                if cache is not None:
                    key, value = cache.update(key, value, self.layer_idx)
            elif CACHE_NAME == "cache":  # it finds its pages in the keywords
                key, value = cache.update(key, value, self.layer_idx, kwargs=kwargs)
            else:  # before 5.24, attention functions fill it
                kwargs["cache"] = cache
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        attended, weights = attend(
            self, query, key, value, attention_mask, scaling=self.scaling, dropout=dropout, **kwargs
        )
        # Back to the shape that came in: servers' attention functions return (tokens, heads x head_dim).
        return self.o_proj(attended.reshape(*hidden_states.shape[:-1], -1)), weights

    def decode(
        self, hidden_states: Tensor, attention_mask: Tensor | None, rotation: Rotation | None, cache: Any
    ) -> Tensor:
        """What `forward` computes of one more token a row, (batch, 1, hidden) in and out; see `decodes`."""
        shape = (hidden_states.shape[0], -1, 1, self.head_dim)  # of one token, nothing need be transposed
        query = self.q_norm(self.q_proj(hidden_states).view(shape))
        key = self.k_norm(self.k_proj(hidden_states).view(shape))
        value = self.v_proj(hidden_states).view(shape)
        if rotation is not None:
            query, key = rotate(torch.cat((query, key), dim=1), rotation).chunk(2, dim=1)
        key, value = cache.update(key, value, self.layer_idx)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=self.scaling)
        return self.o_proj(attended.reshape(hidden_states.shape[0], 1, -1))

    def split_heads(self, states: Tensor) -> Tensor:
        """(batch, sequence, heads x head_dim) -> (batch, heads, sequence, head_dim)."""
        return states.view(*states.shape[:-1], -1, self.head_dim).transpose(1, 2)

    def encoder_keys_and_values(self, states: Tensor, cache: AnyCache | None) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's states, which never change while the decoder writes: a cache keeps them."""
        assert cache is None or isinstance(cache, EncoderDecoderCache)
        if cache is not None and cache.is_updated.get(self.layer_idx):
            layer: Any = cache.cross_attention_cache.layers[self.layer_idx]
            return layer.keys, layer.values
        key, value = map(self.split_heads, project(states, self.k_proj, self.v_proj))
        key = self.k_norm(key)
        if cache is not None:
            key, value = cache.cross_attention_cache.update(key, value, self.layer_idx)
            cache.is_updated[self.layer_idx] = True
        return key, value


class FeedForward(nn.Module):
    """Two linear layers and an activation; gated (Shazeer 2020, arXiv:2002.05202) if the configuration says so."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        wide, bias = config.intermediate_size, config.use_bias
        assert wide is not None
        self.gate_proj = nn.Linear(config.hidden_size, wide, bias=bias) if config.gated_mlp else None
        self.up_proj = nn.Linear(config.hidden_size, wide, bias=bias)
        self.down_proj = ResidualProjection(wide, config.hidden_size, bias=bias)
        self.activation = ACT2FN[config.hidden_act].to(torch.get_default_dtype())  # one has weights, in bfloat16

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch, sequence, hidden) in and out."""
        if self.gate_proj is None:
            return self.down_proj(self.activation(self.up_proj(hidden_states)))
        gate, raised = project(hidden_states, self.gate_proj, self.up_proj)
        return self.down_proj(self.activation(gate) * raised)


class TransformerLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, and cross-attention between them in a decoder that has an encoder."""

    def __init__(
        self, config: TransformerConfig, layer_idx: int, is_causal: bool, has_cross_attention: bool = False
    ) -> None:
        super().__init__()
        self.norm_first = config.norm_placement == "pre"
        self.self_attn = Attention(config, layer_idx, is_causal)
        self.attention_norm = make_norm(config)
        self.cross_attn = Attention(config, layer_idx, is_causal=False) if has_cross_attention else None
        self.cross_attention_norm = make_norm(config) if has_cross_attention else None
        self.mlp = FeedForward(config)
        self.mlp_norm = make_norm(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Mask,
        rotation: Rotation | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Mask = None,
        past_key_values: AnyCache | None = None,
        cache: AnyCache | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(batch, sequence, hidden) in and out; `kwargs` are for the attention to earlier tokens."""
        cache = one_cache(past_key_values, cache)

        def attend(states: Tensor) -> Tensor:
            return self.self_attn(states, attention_mask, rotation, cache=cache, **kwargs)[0]

        def attend_to_encoder(states: Tensor) -> Tensor:
            assert self.cross_attn is not None
            return self.cross_attn(states, encoder_attention_mask, None, encoder_hidden_states, cache)[0]

        hidden_states = self.add(hidden_states, self.attention_norm, attend)
        if self.cross_attention_norm is not None and encoder_hidden_states is not None:
            hidden_states = self.add(hidden_states, self.cross_attention_norm, attend_to_encoder)
        return self.add(hidden_states, self.mlp_norm, self.mlp)

    def decode(
        self, hidden_states: Tensor, attention_mask: Tensor | None, rotation: Rotation | None, cache: Any
    ) -> Tensor:
        """What `forward` computes of one more token a row, (batch, 1, hidden) in and out; see `decodes`."""
        attend, before = self.self_attn.decode, self.norm_first
        attended = attend(
            self.attention_norm(hidden_states) if before else hidden_states, attention_mask, rotation, cache
        )
        hidden_states = hidden_states + attended
        if before:
            return hidden_states + self.mlp(self.mlp_norm(hidden_states))
        hidden_states = self.attention_norm(hidden_states)
        return self.mlp_norm(hidden_states + self.mlp(hidden_states))

    def is_plain(self) -> bool:
        """Whether it computes what `decode` does: without dropout, and nobody watches or changes what it calls."""
        parts = (self.self_attn, self.dropout)
        is_still = not (self.training or any(part.training or is_changed(part) for part in parts))
        return is_still and self.cross_attn is None

    def add(self, hidden_states: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Add the output of `branch` to its input; the norm comes before the branch or after the sum."""
        if self.norm_first:
            return hidden_states + self.dropout(branch(norm(hidden_states)))
        return norm(hidden_states + self.dropout(branch(hidden_states)))


FORWARDS: dict[type[nn.Module], Any] = {kind: kind.forward for kind in (TransformerLayer, Attention, nn.Dropout)}


def is_changed(module: nn.Module) -> bool:
    """Whether calling a module may do anything but what `forward` of its class here does.

    It may have hooks, as of FSDP and of recorded attention; another class, `forward` or compiled call.
    """
    kind = type(module)
    return bool(
        kind.forward is not FORWARDS.get(kind)
        or module._forward_hooks
        or module._forward_pre_hooks
        or "forward" in vars(module)
        or module._compiled_call_impl is not None
    )


class TransformerPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of every model here, and how weights start."""

    config: TransformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TransformerLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": TransformerLayer, "attentions": Attention}

    def __init__(self, config: TransformerConfig, **kwargs: Any) -> None:
        config.validate()  # again: `from_pretrained` sets fields after it was made
        super().__init__(config, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Normal with `initializer_range`, norms 1, biases 0 (BERT, GPT-2, Llama); see `residual_init`."""
        super()._init_weights(module)
        if isinstance(module, ResidualProjection) and self.config.residual_init != "normal":
            scaled = self.config.initializer_range / (2 * self.config.num_hidden_layers) ** 0.5
            init.normal_(module.weight, mean=0.0, std=scaled if self.config.residual_init == "scaled" else 0.0)


class TransformerBackbone(TransformerPreTrainedModel):
    """Embeddings, layers and the last norm. A subclass picks the mask."""

    is_causal: bool
    """Whether a token sees only itself and those before it; must agree with the subclass's mask."""
    gradient_checkpointing = False  # transformers sets it, and then makes no cache

    def __init__(self, config: TransformerConfig, type_vocab_size: int = 0, has_cross_attention: bool = False) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        absolute = config.position_embedding_type == "absolute"
        self.embed_positions = nn.Embedding(config.max_position_embeddings, width) if absolute else None
        self.rotary_emb = None if absolute else RotaryEmbedding(config)
        self.embed_types = nn.Embedding(type_vocab_size, width) if type_vocab_size else None
        norm_first = config.norm_placement == "pre"
        self.embedding_norm = None if norm_first else make_norm(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList(
            TransformerLayer(config, index, self.is_causal, has_cross_attention)
            for index in range(config.num_hidden_layers)
        )
        self.norm = make_norm(config) if norm_first else nn.Identity()

    def refuse_unknown(self, kwargs: ForwardKwargs, known: type[ForwardKwargs] = ForwardKwargs) -> None:
        """Refuse a keyword of `forward` that nothing takes: if it is misspelt, the result would be wrong.

        Raises:
            TypeError: a keyword is neither known nor taken by the attention function.
        """
        for name in kwargs:
            if name not in known.__annotations__ and not takes(self.config._attn_implementation, name):
                raise TypeError(f"{type(self).__name__}.forward() got an unexpected keyword argument {name!r}")

    def take_documents(self, kwargs: ForwardKwargs, position_ids: Tensor | None, tokens: Tensor | None) -> None:
        """Take `seq_idx` from the keywords: positions that restart, without which it would mean nothing, say the same.

        `tokens`: ids or embeddings, a row each.

        Raises:
            ValueError: there are no positions, though a row holds several documents.
        """
        bounds = kwargs.get("cu_seq_lens_q")
        is_packed = bounds is not None and tokens is not None and len(bounds) > len(tokens) + 1
        for name, is_told in (
            ("seq_idx", kwargs.pop("seq_idx", None) is not None),
            ("cu_seq_lens_q", is_packed and not is_flash_attention_requested(self.config)),
        ):
            if is_told and position_ids is None:
                raise ValueError(f"{name} is given without position_ids that restart with every document; give both")

    def embed(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        position_ids: Tensor,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """The sum of each token's embeddings, of its id, position and type, (batch, sequence, hidden)."""
        if input_ids is not None:
            inputs_embeds = look_up(self.embed_tokens, input_ids, "input_ids")
        assert inputs_embeds is not None
        hidden_states = inputs_embeds
        if self.embed_types is not None:  # type 0 too, so that every parameter has a gradient
            types = torch.zeros_like(position_ids) if token_type_ids is None else token_type_ids
            hidden_states = hidden_states + look_up(self.embed_types, types, "token_type_ids")
        if self.embed_positions is not None:
            hidden_states = hidden_states + look_up(self.embed_positions, position_ids, "position_ids")
        if self.embedding_norm is not None:
            hidden_states = self.embedding_norm(hidden_states)
        return self.dropout(hidden_states)

    def transform(
        self,
        hidden_states: Tensor,
        attention_mask: Mask,
        position_ids: Tensor,
        cache: AnyCache | None = None,
        packed: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Mask = None,
        **kwargs: Any,
    ) -> Tensor:
        """All layers and the last norm, (batch, sequence, hidden) in and out.

        `packed` holds positions that restart with each document; FlashAttention needs them in place of a mask.
        """
        if packed is not None and is_flash_attention_requested(self.config) and "cu_seq_lens_q" not in kwargs:
            kwargs |= document_bounds(packed.expand(hidden_states.shape[0], -1))
        rotation = None if self.rotary_emb is None else self.rotary_emb(position_ids, hidden_states.dtype)
        layers: Any = self.layers[: self.config.num_hidden_layers]  # assisted decoding may run only the first
        if not kwargs and encoder_hidden_states is None and self.decodes(hidden_states, layers, cache):
            for layer in layers:
                hidden_states = layer.decode(hidden_states, attention_mask, rotation, cache)
            return self.norm(hidden_states)
        # The cache goes by keyword, where gradient checkpointing finds it: a layer that runs twice may fill it once.
        context = {CACHE_NAME: cache, "position_ids": position_ids, **kwargs}
        encoded = (encoder_hidden_states, encoder_attention_mask)
        for layer in layers:
            hidden_states = layer(hidden_states, attention_mask, rotation, *encoded, **context)
        return self.norm(hidden_states)

    def decodes(self, hidden_states: Tensor, layers: Any, cache: AnyCache | None) -> bool:
        """Whether each row gets one more token, and `TransformerLayer.decode` computes what its `forward` would.

        Of one token, a small model computes hardly longer than Python needs to call it. So `decode` calls less. Linear
        layers, norms and feed-forward are still called as modules: adapters and 8-bit weights may take their places.
        """
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        return (
            hidden_states.shape[1] == 1
            and isinstance(cache, Cache)
            and not isinstance(cache, EncoderDecoderCache)
            and attend is sdpa_attention_forward
            and not is_watched()
            and not _has_any_global_hook()
            and all(not is_changed(layer) and layer.is_plain() for layer in layers)
        )

    def positions(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        position_ids: Tensor | None,
        seen: int | Tensor = 0,
    ) -> Tensor:
        """Positions, (batch or 1, sequence): those given, else counted from `seen`, the number of cached tokens.

        Raises:
            ValueError: not exactly one kind of input, or more tokens than learned positions.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if position_ids is not None:
            return position_ids  # a row may be longer than they reach, if they restart
        tokens = input_ids if input_ids is not None else inputs_embeds
        assert tokens is not None
        length = tokens.shape[1]
        is_known = isinstance(seen, int)  # a static cache counts on the device
        if self.embed_positions is not None and is_known and seen + length > self.config.max_position_embeddings:
            raise ValueError(
                f"the sequence has {seen + length} tokens, but the model knows only "
                f"max_position_embeddings = {self.config.max_position_embeddings} positions; truncate the input"
            )
        return torch.arange(length, device=tokens.device)[None] + seen
