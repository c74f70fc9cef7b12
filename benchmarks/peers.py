"""The peers of our models: the stock recipes, the stock parts chosen well, and nanoGPT.

- `stock` is BERT and GPT-2, transformers' own classes in the recipe of `run_mlm.py` and `run_clm.py`.
- `best-stock` is what somebody gets who knows the field and takes stock parts only: EuroBERT's class or Llama's, on our
  packed rows and with our masks, without dropout, compiled, in bfloat16 where the machine computes in it, with the
  attention that is the fastest there, kept memory, fused AdamW, a linear warm-up and a linear decay. Its clock starts
  when it is compiled.
- `modernbert` is the same with ModernBERT's class, which computes logits of masked tokens only.

nanoGPT is written anew
from its description, as fast plain torch: GPT-2's block without biases or dropout; one product for queries, keys and
values; fused causal attention; smaller weights at the ends of residual branches; logits of all positions at once. See
Karpathy 2022, github.com/karpathy/nanoGPT.
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    EuroBertConfig,
    EuroBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.modeling_outputs import CausalLMOutput

from hf_minibert.data.loader import training_batches
from hf_minibert.data.rows import Batch
from hf_minibert.data.token_store import Documents
from hf_minibert.evaluation.held_out import next_tokens
from hf_minibert.files import write_text
from hf_minibert.models.losses import IGNORE_INDEX, next_token_labels
from hf_minibert.presets import SIZES, build_config
from hf_minibert.pretraining.data import RunData
from hf_minibert.pretraining.plan import Plan
from hf_minibert.runs.hardware import computes_in_bfloat16, fastest_attention, keep_memory
from runs import STEPS, device

LENGTH = 512  # positions of the peers that learn them
WARMUP = 0.05  # of the run of nanoGPT and of the stock parts
PEERS = {"minibert": ("stock", "best-stock", "modernbert"), "minigpt": ("stock", "best-stock", "nanogpt")}
"""Who is measured beside each family."""
ON_OUR_ROWS = ("best-stock", "modernbert")
"""The peers that are trained by `train_on_our_rows`."""
RATES = {
    "stock": [1e-4, 3e-4, 1e-3, 3e-3],
    "best-stock": [7.5e-4, 1.5e-3, 3e-3, 6e-3],
    "modernbert": [7.5e-4, 1.5e-3, 3e-3, 6e-3],
    "nanogpt": [3e-4, 1e-3, 3e-3, 6e-3],
}
"""The learning rates that each may choose from; 1.5e-3 and 1e-3 were the best of the stock parts and of nanoGPT."""


class Block(nn.Module):
    """Attention and feed-forward, each with its norm before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """(batch, sequence, width) in and out."""
        batch, length, width = states.shape
        parts = self.qkv(self.attention_norm(states)).view(batch, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        states = states + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        raised: Tensor = self.down(F.gelu(self.up(self.mlp_norm(states))))
        return states + raised


class PlainGPT(nn.Module):
    """Called as transformers' models are, as far as the benchmarks need it."""

    def __init__(self, *, vocab_size: int, hidden_size: int, num_layers: int, num_heads: int, length: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, hidden_size), nn.Embedding(length, hidden_size)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size, bias=False)
        self.head = nn.Linear(hidden_size, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        self.config = SimpleNamespace(
            vocab_size=vocab_size, hidden_size=hidden_size, num_hidden_layers=num_layers, use_cache=False
        )
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                ends_branch = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * num_layers) if ends_branch else 0.02)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> CausalLMOutput:
        """`logits`, and with `labels` (not shifted; -100 is left out) the `loss`."""
        states = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        for block in self.blocks:
            states = block(states)
        logits = self.head(self.norm(states))
        if labels is None:
            return CausalLMOutput(logits=logits)
        shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
        return CausalLMOutput(F.cross_entropy(logits.flatten(0, 1), shifted.flatten()), logits)


def nanogpt_optimizer(model: nn.Module, learning_rate: float, beta2: float = 0.95) -> torch.optim.Optimizer:
    """AdamW as nanoGPT sets it: decay 0.1 for matrices and embeddings, none for norms."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, beta2), fused=True)


def nanogpt_schedule(warmed_up: float, progress: float) -> float:
    """The learning rate as a share of its peak: linear warm-up, by how much of it is over, then a cosine to a tenth."""
    return min(warmed_up, 0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def peer_model(peer: str, family: str, size: str, vocab_size: int) -> nn.Module:
    """The peer's model, of the same shape as ours."""
    shape = SIZES[size]
    width, layers, heads = shape["hidden_size"], shape["num_hidden_layers"], shape["num_attention_heads"]
    if peer == "nanogpt":
        return PlainGPT(vocab_size=vocab_size, hidden_size=width, num_layers=layers, num_heads=heads, length=LENGTH)
    if peer in ON_OUR_ROWS:
        return stock_parts(peer, family, size, vocab_size)
    model: nn.Module
    if family == "minibert":
        bert = BertConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
        )
        model = BertForMaskedLM(bert)
        return model
    gpt2 = GPT2Config(vocab_size=vocab_size, n_embd=width, n_layer=layers, n_head=heads, n_positions=LENGTH)
    gpt2.use_cache = False
    model = GPT2LMHeadModel(gpt2)
    return model


def stock_parts(peer: str, family: str, size: str, vocab_size: int) -> nn.Module:
    """The stock class that is nearest to our block, without dropout, of the same shape and with tied embeddings."""
    shape: dict[str, Any] = SIZES[size] | {
        "vocab_size": vocab_size,
        "intermediate_size": build_config(f"{family}-{size}", "modern").intermediate_size,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    if family == "minigpt":
        return LlamaForCausalLM(LlamaConfig(**shape, use_cache=False))
    if peer == "best-stock":
        return EuroBertForMaskedLM(EuroBertConfig(**shape, mask_token_id=4))
    modern_bert = ModernBertConfig(**shape, sparse_prediction=True, cls_token_id=2, sep_token_id=3)
    return ModernBertForMaskedLM(modern_bert)


def attend_fast(model: nn.Module, length: int) -> nn.Module:
    """A compiled peer with the attention that is the fastest on this machine, which ours takes, too."""
    if isinstance(model, PreTrainedModel):
        model.set_attn_implementation(fastest_attention(length, is_compiled=True))
    return model


class Budget(TrainerCallback):
    """Ends `Trainer` when its time is over, and adds the time to each line that it logs."""

    def __init__(self, seconds: float) -> None:
        self.begin, self.seconds = time.perf_counter(), seconds

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self.begin = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds since training began."""
        return time.perf_counter() - self.begin

    def remaining(self) -> float:
        """The share of the budget that is left; the stock schedule multiplies the learning rate by it."""
        return max(0.0, 1 - self.elapsed() / self.seconds)

    def on_step_end(self, *event: Any, **_: Any) -> None:
        """Stop when nothing is left."""
        _, _, control = event
        control.should_training_stop = self.remaining() == 0

    def on_log(self, *event: Any, **_: Any) -> None:
        """Add the seconds to the line that has just been logged."""
        _, state, _ = event
        state.log_history[-1]["seconds"] = round(self.elapsed(), 3)


def optimizer_and_schedule(
    peer: str, model: nn.Module, learning_rate: float, clock: Budget
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """The peer's optimizer, and its schedule over the budget, whose clock starts: a schedule looks at it at once."""
    clock.on_train_begin()
    if peer == "stock":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True
        )
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: clock.remaining())
    optimizer = nanogpt_optimizer(model, learning_rate)
    if peer in ON_OUR_ROWS:
        return optimizer, torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda _: min((1 - clock.remaining()) / WARMUP, clock.remaining() / (1 - WARMUP))
        )
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda _: nanogpt_schedule((1 - clock.remaining()) / WARMUP, 1 - clock.remaining())
    )


def stock_rows(documents: Documents, length: int, cls_id: int, sep_id: int) -> Dataset:
    """Documents joined and cut into rows, as the stock scripts do."""
    begin, end = np.array([cls_id]), np.array([sep_id])
    pieces = [piece for index in range(len(documents)) for piece in (begin, documents.tokens(index), end)]
    joined = np.concatenate(pieces).astype(np.int64)
    rows = joined[: len(joined) // length * length].reshape(-1, length)
    return Dataset.from_dict({"input_ids": rows}).with_format("torch")


def train_peer(
    peer: str, plan: Plan, data: RunData, *, seconds: float, learning_rate: float, folder: Path
) -> tuple[nn.Module, dict[str, Any]]:
    """Train the peer of our model for a time, and write its log; returns it and how it was trained."""
    family, _, size = plan.arguments.model.partition("-")
    set_seed(plan.arguments.seed)
    model = peer_model(peer, family, size, plan.config.vocab_size)
    clock = Budget(seconds)
    if peer in ON_OUR_ROWS:
        attend_fast(model, plan.arguments.max_seq_length)
        return model, train_on_our_rows(peer, model, plan, data, clock, learning_rate=learning_rate, folder=folder)
    tokenizer, length = plan.tokenizer, plan.arguments.max_seq_length
    rows = stock_rows(data.store.train, length, int(tokenizer.cls_token_id), int(tokenizer.sep_token_id))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=1_000,
            per_device_train_batch_size=8,
            save_strategy="no",
            logging_steps=STEPS,
            seed=plan.arguments.seed,
            use_cpu=not torch.accelerator.is_available(),
            report_to="none",
            bf16=device().type == "cuda" and peer == "nanogpt",
        ),
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=family == "minibert"),
        optimizers=optimizer_and_schedule(peer, model, learning_rate, clock),
        callbacks=[clock],
    )
    trainer.train()
    # `Trainer` has wrapped `forward` in autocast, and all models are measured in float32.
    model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    tokens = trainer.args.train_batch_size * length
    lines = [line | {"tokens": line["step"] * tokens} for line in trainer.state.log_history]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return model, {"steps": trainer.state.global_step, "precision": "bf16" if trainer.args.bf16 else "fp32"}


def train_on_our_rows(
    peer: str, model: nn.Module, plan: Plan, data: RunData, clock: Budget, *, learning_rate: float, folder: Path
) -> dict[str, Any]:
    """Train a model of stock parts on the batches of our run, until the clock ends; returns how it was trained.

    Documents of a row see each other, as in the stock scripts. The first steps, which compile, are taken back before
    the clock starts.
    """
    in_bfloat16 = computes_in_bfloat16()
    model.to(device()).train()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compiled = torch.compile(model)
    batches = training_batches(
        data.train,
        batch_size=plan.arguments.per_device_train_batch_size,
        num_workers=plan.arguments.dataloader_num_workers,
    )
    keep_memory(device())

    def step() -> tuple[Tensor, int]:
        batch = {name: tensor.to(device(), non_blocking=True) for name, tensor in next(batches).items()}
        with torch.autocast(device().type, torch.bfloat16, enabled=in_bfloat16):
            loss = compiled(input_ids=batch["input_ids"], labels=batch["labels"]).loss
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        return loss.detach(), batch["input_ids"].numel()

    for _ in range(2):
        step()
    model.zero_grad()
    model.load_state_dict(weights)
    optimizer, schedule = optimizer_and_schedule(peer, model, learning_rate, clock)
    lines, losses = list[dict[str, Any]](), list[Tensor]()
    tokens = steps = 0
    clock.on_train_begin()
    is_over = False
    while not is_over:
        loss, seen = step()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss)
        tokens, steps = tokens + seen, steps + 1
        is_over = clock.remaining() == 0
        if steps % STEPS == 0 or is_over:
            seconds = round(clock.elapsed(), 3)
            mean_loss = float(torch.stack(losses).mean())
            lines.append({"step": steps, "tokens": tokens, "seconds": seconds, "loss": mean_loss})
            losses.clear()
    batches.close()
    write_text(folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    return {"steps": steps, "precision": "bf16" if in_bfloat16 else "fp32"}


def without_private_arguments(model: nn.Module, targets: Callable[[Batch], Tensor]) -> nn.Module:
    """A stock model that ignores the arguments that only ours take; it has learned to read across documents.

    Args:
        model: masked or causal.
        targets: see `hf_minibert.pretraining.objectives.Reading`: where a label stands at its token or after it.
    """
    is_shifted = targets is next_tokens
    forward = model.forward

    def plain(**inputs: Any) -> Any:
        for name in ("full_logits", "position_ids"):
            inputs.pop(name, None)
        labels = inputs.pop("labels", None)
        outputs = forward(**inputs)
        if labels is not None:
            predicted = next_token_labels(labels) if is_shifted else labels
            outputs.logits = outputs.logits[predicted != IGNORE_INDEX]
        return outputs

    model.forward = plain
    return model
