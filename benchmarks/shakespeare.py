"""Shakespeare by character: our recipe on nanoGPT's own ground, for the same time on the same machine.

::

    python benchmarks/shakespeare.py --text input.txt --budget 3m

The text is "tiny Shakespeare" (github.com/karpathy/char-rnn), or any other. The first nine tenths train, the rest
measures. The peer is nanoGPT's configuration for a CPU: 4 layers of 128, rows of 64 characters, 12 of them a step,
AdamW at 1e-3 with beta2 0.99, a warm-up of 100 steps, then a cosine down to a tenth, no dropout. Its schedule is fitted
to the budget. Ours is `scripts/pretrain.py` with a model of as many weights (within 5%), rows as long, and a tokenizer
whose tokens are single bytes. Its feed-forward without a gate, its rows a step and its rate are not the defaults:
documents held out of the training text chose them. Both are measured in nats per character, in rows of 64 characters
without context. Who begins changes with the seed.
"""

import json
import lzma
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from hf_minibert import MiniGPTForCausalLM
from hf_minibert.command_line import invocation, run
from hf_minibert.document_encoder import DocumentEncoder
from hf_minibert.errors import UserError
from hf_minibert.pretraining.arguments import parse_duration
from hf_minibert.tokenization import load_tokenizer
from peers import PlainGPT, nanogpt_optimizer, nanogpt_schedule
from runs import Benchmark, curves, environment, log_of, machine, results_of, script, write_results

LENGTH = 64
WARMUP_STEPS = 100
DOCUMENT_CHARACTERS = 4_000
BYTES_ALONE = 516  # special tokens, and each byte at the start of a word and inside one
OURS = "num_hidden_layers=4,num_attention_heads=4,gated_mlp=false,hidden_act=gelu,intermediate_size=480"


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Train ours and nanoGPT's model on characters for the same time."""

    text: str
    """The text, plain or .xz."""
    budget: str = "3m"
    """Time of each run."""
    seeds: list[int] = field(default_factory=lambda: [42])
    """A comparison for each."""
    output_dir: str = "runs/shakespeare"
    """Folder for the runs."""


def rows(ids: Tensor) -> tuple[Tensor, Tensor]:
    """What a model reads and what it predicts, each (rows, LENGTH); no row shares a character with another."""
    count = (len(ids) - 1) // LENGTH
    return ids[: count * LENGTH].view(count, LENGTH), ids[1 : count * LENGTH + 1].view(count, LENGTH)


@torch.no_grad()
def loss_on(model: nn.Module, ids: Tensor) -> float:
    """Nats per character."""
    model.eval()
    inputs, targets = rows(ids)
    total = 0.0
    for start in range(0, len(inputs), 256):
        logits = model(inputs[start : start + 256]).logits.float()
        total += float(F.cross_entropy(logits.flatten(0, 1), targets[start : start + 256].flatten(), reduction="sum"))
    return total / targets.numel()


def train_nanogpt(train: Tensor, vocab_size: int, seconds: float, seed: int) -> tuple[nn.Module, int]:
    """The loop of nanoGPT: rows from random places, for a time. Returns the model and its steps."""
    torch.manual_seed(seed)
    model = PlainGPT(vocab_size=vocab_size, hidden_size=128, num_layers=4, num_heads=4, length=LENGTH)
    optimizer = nanogpt_optimizer(model, 1e-3, beta2=0.99)
    begin, step = time.perf_counter(), 0
    with tqdm(total=round(seconds), desc="nanoGPT", unit="s") as bar:
        while (elapsed := time.perf_counter() - begin) < seconds:
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * nanogpt_schedule((step + 1) / WARMUP_STEPS, elapsed / seconds)
            starts = torch.randint(len(train) - LENGTH - 1, (12,))
            batch = torch.stack([train[start : start + LENGTH + 1] for start in starts])
            logits = model(batch[:, :-1]).logits
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            bar.update(int(elapsed) - bar.n)
    return model, step


def train_ours(documents: list[str], arguments: Arguments, seed: int, output: Path) -> dict[str, Any]:
    """Run the scripts as a user would; the figures of the run."""
    output.mkdir(parents=True, exist_ok=True)
    corpus = output / "train.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    if not (output / "tokenizer").exists():
        script("train_tokenizer.py", corpus=corpus, vocab_size=BYTES_ALONE, output_dir=output / "tokenizer")
    script(
        "pretrain.py",
        model="minigpt-tiny",
        config_overrides=OURS,
        corpus=corpus,
        tokenizer=output / "tokenizer",
        max_seq_length=LENGTH + 1,  # all but the first are predicted
        per_device_train_batch_size=64,
        learning_rate=8e-3,
        budget=arguments.budget,
        seed=seed,
        output_dir=output / f"ours-{seed}",
        overwrite_output_dir=True,
    )
    return results_of(output / f"ours-{seed}")


def cut(text: str) -> list[str]:
    """The text in documents of a few speeches, which join to it."""
    documents, start = [], 0
    while start < len(text):
        end = text.find("\n\n", start + DOCUMENT_CHARACTERS)
        end = len(text) if end < 0 else end + 2
        documents.append(text[start:end])
        start = end
    return documents


def table(figures: dict[str, Any]) -> list[str]:
    """Loss by character beside nanoGPT's configuration."""
    lines = [
        f"| {figures['budget']} on {figures['hardware']} | nats per character | million weights | million characters |",
        "|---|---:|---:|---:|",
    ]
    for one in figures["runs"]:
        for name, who in (("ours", "ours"), ("nanoGPT's configuration for a CPU", "nanogpt")):
            of = one[who]
            lines.append(
                f"| {name}, seed {one['seed']} | {of['loss']:.3f} | {of['num_parameters'] / 1e6:.2f} "
                f"| {of['tokens'] / 1e6:.1f} |"
            )
    return [*lines, "", f"(the last tenth of the text; `{figures['command']}`)"]


def main(arguments: Arguments) -> int:
    """Both, for each seed.

    Raises:
        UserError: there is a GPU, which only ours would use.
    """
    if torch.accelerator.is_available():
        raise UserError("nanoGPT's configuration is for a CPU; hide the accelerator, as CUDA_VISIBLE_DEVICES= does")
    torch.set_flush_denormal(True)
    path, output = Path(arguments.text), Path(arguments.output_dir).resolve()
    raw = path.read_bytes()
    text = (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode("utf-8")
    train, measure = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
    characters = {character: index for index, character in enumerate(sorted(set(text)))}
    train_ids, measure_ids = (torch.tensor([characters[one] for one in part]) for part in (train, measure))
    runs = []
    for seed in arguments.seeds:
        for who in ("ours", "nanogpt") if seed % 2 else ("nanogpt", "ours"):
            if who == "ours":
                results = train_ours(cut(train), arguments, seed, output)
            else:
                peer, steps = train_nanogpt(train_ids, len(characters), parse_duration(arguments.budget), seed)
        ours = MiniGPTForCausalLM.from_pretrained(output / f"ours-{seed}")
        own_ids, _ = DocumentEncoder(load_tokenizer(output / "tokenizer"))([measure])
        own = torch.from_numpy(own_ids.astype("int64"))
        assert len(own) == len(measure.encode()), "a token is a byte"
        runs.append(
            {
                "seed": seed,
                "ours": {
                    "loss": loss_on(ours, own) * len(own) / len(measure),
                    "num_parameters": results["num_parameters"],
                    "steps": results["training"]["steps"],
                    "tokens": results["training"]["tokens_seen"],
                    "curves": curves(log_of(output / f"ours-{seed}")),
                },
                "nanogpt": {
                    "loss": loss_on(peer, measure_ids),
                    "num_parameters": sum(parameter.numel() for parameter in peer.parameters()),
                    "steps": steps,
                    "tokens": steps * 12 * LENGTH,
                },
            }
        )
        losses = {who: statistics.mean(one[who]["loss"] for one in runs) for who in ("ours", "nanogpt")}  # type: ignore[index]
        budget = [] if arguments.budget == Arguments.budget else [arguments.budget]
        write_results(
            arguments.results / f"{'-'.join(('shakespeare', *budget, *machine()))}.json",
            {
                "command": invocation(),
                "budget": arguments.budget,
                "hardware": results["training"]["hardware"],
                "nats_per_character": losses,
                "runs": runs,
                "environment": environment(),
            },
        )
    print(f"nats per character: ours {losses['ours']:.3f}, nanoGPT {losses['nanogpt']:.3f}")
    return 0


if __name__ == "__main__":
    run(Arguments, main)
