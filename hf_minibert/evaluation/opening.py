"""Open any language model, ours or a stock one, and know how to read it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from hf_minibert.assets import model_folder, without_model
from hf_minibert.errors import UserError, reason_of
from hf_minibert.evaluation.arguments import Backend
from hf_minibert.models.modeling_minibert import MiniBertForMaskedLM
from hf_minibert.models.modeling_minigpt import MiniGPTForCausalLM
from hf_minibert.models.modeling_transformer import TransformerBackbone
from hf_minibert.presets import load_pretrained

MASKED_HEADS = ("ForMaskedLM", "ForPreTraining")
CAUSAL_HEADS = ("ForCausalLM", "LMHeadModel", "LMHead")
NOT_NUMBERS = "what {} computes is no number (NaN): its weights are damaged, or too large; nothing is measured"
HEAD_TOLERANCE = 1e-3
"""How far a head's logits for single states may be from those that the model makes of a whole text."""


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A model with a head over the vocabulary, in evaluation mode and in float32, and its tokenizer."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    backend: Backend
    max_length: int | None
    """The most tokens that it reads, special ones included; None: any number."""
    reads_states: bool
    """Whether its head turns each state into logits by itself, so that only the asked ones need to be computed."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    @property
    def offset(self) -> int:
        """How far before a token's place the state is that predicts it."""
        if isinstance(self.model, MiniBertForMaskedLM):
            return int(self.model.lm_head.predicts_next)
        return 0 if self.backend == "mlm" else 1

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary, as the head has them."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def pad_id(self) -> int:
        """What fills rows up. A mask hides it, but some models also count positions by it."""
        ids = (self.tokenizer.pad_token_id, self.model.config.get_text_config().pad_token_id)
        return next((number for number in ids if number is not None), 0)

    @torch.inference_mode()
    def predict(
        self, input_ids: Tensor, attention_mask: Tensor | None, rows: Tensor, columns: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How probable tokens are at some places of a batch.

        Args:
            input_ids: (batch, sequence), on any device.
            attention_mask: (batch, sequence), 0 for padding; None: there is none.
            rows: (places,), the row of each.
            columns: (places,), where the token is, not where it is read.
            targets: (places,), the tokens.

        Returns:
            Log-probabilities, (places,), in nats and in float32, and whether no other token is likelier, (places,); on
            the CPU.
        """
        inputs = {"input_ids": input_ids.to(self.device)}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask.to(self.device)
        rows, columns, targets = (each.to(self.device) for each in (rows, columns - self.offset, targets))
        settings = {"use_cache": False} if self.backend == "causal" else {}
        if not self.reads_states:
            log_probabilities, is_best = _of_targets(self.model(**inputs, **settings).logits[rows, columns], targets)
            return log_probabilities.cpu(), is_best.cpu()
        body = self.model.base_model
        is_few = 2 * len(rows) < input_ids.numel()
        with last_layer_at(body, rows, columns) if is_few and isinstance(body, TransformerBackbone) else nullcontext():
            states = body(**inputs, **settings)[0][rows, columns]
        size = max(1, (1 << 22) // self.vocab_size)  # of logits: few enough for a CPU's caches
        parts = zip(torch.split(states, size), torch.split(targets, size), strict=True)
        found = [_of_targets(logits_of_states(self.model, some), tokens) for some, tokens in parts]
        return torch.cat([each for each, _ in found]).cpu(), torch.cat([each for _, each in found]).cpu()


def _of_targets(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets, and whether each is the likeliest; logits: (places, vocabulary)."""
    log_probabilities = logits.float().log_softmax(dim=1)
    of_targets = log_probabilities.gather(1, targets[:, None])[:, 0]
    return of_targets, of_targets >= log_probabilities.amax(dim=1)


@contextmanager
def last_layer_at(body: TransformerBackbone, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """In the block, the last layer of a model of ours is computed at some places of a batch, not at all.

    Only keys and values are still needed of every token. The states of the other places are wrong there.

    Args:
        body: the model.
        rows: (places,), the row of each.
        columns: (places,), its place in the row.
    """
    layer: Any = body.layers[body.config.num_hidden_layers - 1]
    modules: list[nn.Module] = [layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp]
    for module in modules:
        module.forward = partial(_compute_at, module.forward, rows, columns)
    try:
        yield
    finally:
        for module in modules:
            del module.forward  # the method of its class is there again


def _compute_at(compute: Callable[[Tensor], Tensor], rows: Tensor, columns: Tensor, states: Tensor) -> Tensor:
    """What a module makes of some of (batch, sequence, width) states, zeros in the place of the others."""
    found = compute(states[rows, columns])
    everywhere = found.new_zeros(*states.shape[:-1], found.shape[-1])
    everywhere[rows, columns] = found
    return everywhere


def logits_of_states(model: PreTrainedModel, states: Tensor) -> Tensor:
    """What a model's head makes of single states of its base: (states, hidden) -> (states, vocabulary)."""
    if isinstance(model, (MiniBertForMaskedLM, MiniGPTForCausalLM)):
        logits: Tensor = model.lm_head(states)  # whose forward would move the states of a hybrid model by one place
        return logits
    base: nn.Module = model.base_model
    output = BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=states[None])
    base.forward = lambda *_inputs, **_settings: output
    try:
        ids = torch.zeros(states[None].shape[:2], dtype=torch.long, device=states.device)
        logits = model(input_ids=ids).logits
    finally:
        del base.forward  # the method of its class is there again
    return logits[0]


def open_language_model(name: str, *, backend: Backend | None = None, trust_remote_code: bool = False) -> LanguageModel:
    """Open a masked or a causal language model.

    Args:
        name: a folder, a name on the Hub, or a reference checkpoint's.
        backend: how to read it; default, what the model was made for.
        trust_remote_code: whether to run code that comes with the model.

    Raises:
        UserError: there is no such model, it has no such head, or its tokenizer does not fit.
    """
    place = model_folder(name)
    config = open_config(name, trust_remote_code=trust_remote_code)
    is_causal = backend == "causal" if backend is not None else _is_causal(config)
    auto = AutoModelForCausalLM if is_causal else AutoModelForMaskedLM
    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if is_causal else MODEL_FOR_MASKED_LM_MAPPING
    kind = "causal" if is_causal else "masked"
    has_class = type(config) in mapping or (trust_remote_code and auto.__name__ in (config.auto_map or {}))
    if not has_class:
        other = "mlm" if is_causal else "causal"
        has_other = type(config) in (MODEL_FOR_MASKED_LM_MAPPING if is_causal else MODEL_FOR_CAUSAL_LM_MAPPING)
        remedy = f"try --backend {other}" if has_other else "give a masked or a causal language model"
        raise UserError(f"{name} is a {config.model_type}, which has no {kind} language model; {remedy}")
    if is_causal and type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        config.is_decoder = True  # else BERT and its kin would see later tokens
    model, missing = load_pretrained(
        auto, place, trust_remote_code=trust_remote_code, config=config, dtype=torch.float32
    )
    if missing:
        raise UserError(
            f"{name} has no trained head of a {kind} language model: it lacks {', '.join(sorted(missing)[:3])}; give a "
            "model that was pre-trained and saved with it"
        )
    tokenizer = open_tokenizer(name, trust_remote_code=trust_remote_code)
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(f"a {config.model_type} does not tell its head, without which it cannot be measured")
    if len(tokenizer) > (most := head.weight.shape[0]):
        raise UserError(
            f"the tokenizer of {name} has {len(tokenizer):,} entries, its model {most:,}; they are not of one model"
        )
    if not is_causal and tokenizer.mask_token_id is None:
        raise UserError(f"the tokenizer of {name} has no mask token, which a masked language model needs")
    if backend is None:
        is_hybrid = isinstance(model, MiniBertForMaskedLM) and model.lm_head.predicts_next
        backend = "causal" if is_causal else "mntp" if is_hybrid else "mlm"
    if backend == "mntp" and isinstance(model, MiniBertForMaskedLM) and not model.lm_head.predicts_next:
        raise UserError(
            f"backend mntp is for hybrid models, but {name} was made to predict a hidden token at its own place; leave "
            "it out"
        )
    model.eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    if is_causal and sees_later_tokens(model):
        raise UserError(
            f"the tokens of {name}, a {config.model_type}, see later ones, so it knows what it should predict; try "
            "--backend mlm, or give a causal language model"
        )
    return LanguageModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        backend=backend,
        max_length=max_length(model),
        reads_states=reads_states(model),
    )


def open_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """The configuration of any model.

    Raises:
        UserError: there is none, or it needs code that is not trusted.
    """
    place = model_folder(name)
    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
    except Exception as error:  # a config.json may hold anything, and each part of transformers stumbles in its own way
        reason = reason_of(error)[:300]
        if "trust_remote_code" in reason:
            raise UserError(
                f"{name} brings code of its own, which is not run; read it, and to trust it give --trust_remote_code"
            ) from error
        raise UserError(f"{name} {without_model(place)}: {reason}") from error


def open_tokenizer(name: str, *, subfolder: str = "", trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of any model, or the one in a subfolder.

    Raises:
        UserError: there is none.
    """
    try:
        return AutoTokenizer.from_pretrained(
            model_folder(name), subfolder=subfolder, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # tokenizers raises nothing narrower for a damaged file
        reason = reason_of(error)[:300]
        raise UserError(f"{name} has no tokenizer that opens: {reason}; save it into the model's folder") from error


def _is_causal(config: Any) -> bool:
    """Whether a model was made to predict the next token; if its head does not say, whether it can do nothing else."""
    for architecture in config.architectures or []:
        if architecture.endswith(MASKED_HEADS) and type(config) in MODEL_FOR_MASKED_LM_MAPPING:
            return False
        if architecture.endswith((*MASKED_HEADS, *CAUSAL_HEADS)):
            return bool(architecture.endswith(CAUSAL_HEADS))
    return type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def max_length(model: PreTrainedModel) -> int | None:
    """The most tokens that a model reads; None: any number."""
    longest: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for module in model.modules():  # RoBERTa and its kin count positions from behind the padding's
        for name, child in module.named_children():
            if name == "position_embeddings" and isinstance(child, nn.Embedding) and child.padding_idx is not None:
                return child.num_embeddings - child.padding_idx - 1
    return longest if longest is not None and longest > 0 else None


def _few_ids(model: PreTrainedModel) -> torch.Tensor:
    """A short row of tokens that the model knows, (1, 5)."""
    return torch.arange(5, device=model.device)[None] % int(model.config.get_text_config().vocab_size)


@torch.inference_mode()
def sees_later_tokens(model: PreTrainedModel) -> bool:
    """Whether another last token changes what is predicted before it; measured, since class names do not tell."""
    ids = _few_ids(model)
    others = ids.clone()
    others[0, -1] = ids[0, 0]
    before, after = (model(input_ids=each).logits[0, :-1] for each in (ids, others))
    return bool((before - after).abs().max() > HEAD_TOLERANCE)


@torch.inference_mode()
def reads_states(model: PreTrainedModel) -> bool:
    """Whether a head makes the same logits of single states as of a whole text; measured, since any class may come."""
    if isinstance(model, (MiniBertForMaskedLM, MiniGPTForCausalLM)):
        return True
    if model.base_model is model:
        return False
    ids = _few_ids(model)
    expected = model(input_ids=ids).logits[0]
    try:
        found = logits_of_states(model, model.base_model(input_ids=ids)[0][0])
    except (TypeError, AttributeError, ValueError, RuntimeError, LookupError):  # it asks more of its base than states
        return False
    return found.shape == expected.shape and bool((found - expected).abs().max() <= HEAD_TOLERANCE)
