"""What a budget of time buys: our default recipe beside its peers', on the same text and machine.

::

    python benchmarks/learning_efficiency.py --family minibert --budget 10m
    python benchmarks/learning_efficiency.py --family minigpt --budget 10m --seeds 42 43 44

The stock peer is `BertForMaskedLM` or `GPT2LMHeadModel` of the same shape, tokenizer, text and held-out text, trained
by `Trainer` as `run_mlm.py` and `run_clm.py` do: documents joined and cut into rows, batches of eight, AdamW, a linear
schedule without warm-up (here over the budget), dropout 0.1, float32. MiniGPT has a second, nanoGPT: the model and the
recipe of `plain_gpt.py`, gradients clipped at 1, a twentieth of the budget for the warm-up; on a GPU in bfloat16, as
nanoGPT does, but neither compiled (nor is ours) nor with its larger batch. A peer's learning rate is the best of
`--learning_rates`, each tried for `--search_budget`; on a GPU all at once, which share it alike.

Runs take turns, and who begins changes with the seed; all models are then measured on the same rows, masked alike, in
float32: of `--test_corpus`, which nobody has chosen anything by, or of what is held out of the corpus. What is there
already is not run again: delete a seed of the results to repeat it. A machine that does not compute in bfloat16 has a
file of its own (`-fp32`), and so has a GPU.
"""

import dataclasses
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

import charts
import plain_gpt
from hf_minibert import MiniBertForMaskedLM, MiniGPTForCausalLM
from hf_minibert.command_line import invocation, run
from hf_minibert.data.corpus import open_corpus
from hf_minibert.data.loader import evaluation_batches
from hf_minibert.data.rows import Rows
from hf_minibert.data.token_store import Documents, open_token_store
from hf_minibert.evaluation.held_out import evaluate
from hf_minibert.files import write_json, write_text
from hf_minibert.presets import SIZES
from hf_minibert.pretraining.arguments import PretrainArguments, parse_duration
from hf_minibert.pretraining.plan import Plan, RunData, make_plan, objective_over, read_data
from hf_minibert.pretraining.report import environment
from hf_minibert.runs.hardware import computes_in_bfloat16, hardware
from hf_minibert.tokenization import OWN_TOKENIZER, load_tokenizer
from runs import REPOSITORY, Benchmark, device, earlier, keep, machine, mean, results_of, short, unit

PEERS = {"minibert": ("stock",), "minigpt": ("stock", "nanogpt")}
MEASURES = {"minibert": "loss", "minigpt": "bits_per_byte"}
OURS: dict[str, Any] = {"minibert": MiniBertForMaskedLM, "minigpt": MiniGPTForCausalLM}
BUDGET = "10m"
WARMUP = 0.05  # of nanoGPT's run
TEST_ROWS = 1_024
LENGTH = 512  # positions of the peers that learn them


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Train ours and its peers for the same time, and compare them on held-out text."""

    family: Literal["minibert", "minigpt"] = "minibert"
    """minibert: masked LM, beside stock BERT; minigpt: next token, beside stock GPT-2 and nanoGPT."""
    size: str = "mini"
    """tiny, mini, small or medium."""
    corpus: list[str] = field(default_factory=lambda: ["builtin"])
    """Text, as in `scripts/pretrain.py`."""
    test_corpus: list[str] = field(default_factory=list)
    """Other text, to measure the models on at the end. Default: what is held out of the corpus, as during training."""
    budget: str = BUDGET
    """Time of each run."""
    search_budget: str = "2m"
    """Time for each learning rate of a peer."""
    learning_rates: list[float] = field(default_factory=lambda: [1e-4, 3e-4, 1e-3, 3e-3])
    """What a peer may choose from."""
    seeds: list[int] = field(default_factory=lambda: [42, 43, 44])
    """A comparison for each."""
    output_dir: str = "runs/learning_efficiency"
    """Folder for the runs."""
    peer: Literal["stock", "nanogpt"] | None = None
    """For a peer's own process: train it with the first of --learning_rates and of --seeds, into --output_dir."""


class Budget(TrainerCallback):
    """Ends `Trainer` when the time is over."""

    def __init__(self, seconds: float) -> None:
        self.begin, self.seconds = time.perf_counter(), seconds

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The clock starts here."""
        self.begin = time.perf_counter()

    def remaining(self) -> float:
        """The share of the budget that is left, which is also the share of the learning rate."""
        return max(0.0, 1 - (time.perf_counter() - self.begin) / self.seconds)

    def on_step_end(self, *event: Any, **_: Any) -> None:
        """Stop when nothing is left."""
        _, _, control = event
        control.should_training_stop = self.remaining() == 0


def peer_model(peer: str, family: str, size: str, vocab_size: int) -> nn.Module:
    """The peer's model, of the same shape as ours."""
    shape = SIZES[size]
    width, layers, heads = shape["hidden_size"], shape["num_hidden_layers"], shape["num_attention_heads"]
    if peer == "nanogpt":
        return plain_gpt.PlainGPT(
            vocab_size=vocab_size, hidden_size=width, num_layers=layers, num_heads=heads, length=LENGTH
        )
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


def recipe(
    peer: str, model: nn.Module, learning_rate: float, clock: Budget
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """The peer's optimizer, and its schedule over the budget."""
    if peer == "stock":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True
        )
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: clock.remaining())
    optimizer = plain_gpt.optimizer(model, learning_rate)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda _: plain_gpt.schedule((1 - clock.remaining()) / WARMUP, 1 - clock.remaining())
    )


def stock_rows(documents: Documents, length: int, cls_id: int, sep_id: int) -> Dataset:
    """Documents joined and cut into rows, as the stock scripts do."""
    begin, end = np.array([cls_id]), np.array([sep_id])
    pieces = [piece for index in range(len(documents)) for piece in (begin, documents.tokens(index), end)]
    joined = np.concatenate(pieces).astype(np.int64)
    rows = joined[: len(joined) // length * length].reshape(-1, length)
    return Dataset.from_dict({"input_ids": rows}).with_format("torch")


def train_peer(arguments: Arguments, peer: str) -> None:
    """The peer's own process: train, measure, write `results.json`."""
    torch.set_flush_denormal(True)
    folder = Path(arguments.output_dir)
    seed, learning_rate = arguments.seeds[0], arguments.learning_rates[0]
    set_seed(seed)
    plan = make_plan(pretrain_arguments(arguments, folder, seed))
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    data = read_data(plan, accelerator)
    model = peer_model(peer, arguments.family, arguments.size, plan.config.vocab_size)
    clock = Budget(parse_duration(arguments.budget))
    optimizer, schedule = recipe(peer, model, learning_rate, clock)
    tokenizer = plan.tokenizer
    rows = stock_rows(data.store.train, plan.max_seq_length, int(tokenizer.cls_token_id), int(tokenizer.sep_token_id))
    on_gpu = device().type == "cuda"
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=1_000,
            per_device_train_batch_size=8,
            save_strategy="no",
            logging_steps=50,
            seed=seed,
            use_cpu=not torch.accelerator.is_available(),
            report_to="none",
            bf16=on_gpu and peer == "nanogpt",
        ),
        train_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=arguments.family == "minibert"),
        optimizers=(optimizer, schedule),
        callbacks=[clock],
    )
    trainer.train()
    log = "".join(json.dumps(line) + "\n" for line in trainer.state.log_history)
    write_text(folder / "metrics.jsonl", log)
    metrics = measure(without_private_arguments(model.to(accelerator.device)), arguments, plan, data, accelerator)
    write_json(
        folder / "results.json",
        {
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "training": {"steps": trainer.state.global_step, "precision": "bf16" if trainer.args.bf16 else "fp32"},
            "metrics": metrics,
        },
    )


def without_private_arguments(model: nn.Module) -> nn.Module:
    """A stock model that is spared what only ours take; it has learned to read over the ends of documents."""
    forward = model.forward

    def plain(**inputs: Any) -> Any:
        for name in ("full_logits", "position_ids"):
            inputs.pop(name, None)
        labels = inputs.pop("labels", None)
        outputs = forward(**inputs)
        if labels is not None:
            outputs.logits = outputs.logits[labels != -100]
        return outputs

    model.forward = plain
    return model


def measure(
    model: nn.Module, arguments: Arguments, plan: Plan, data: RunData, accelerator: Accelerator
) -> dict[str, float]:
    """Held-out loss of a model, and under `test_*` its loss on the text for that."""

    def on(rows: Rows, count: int) -> dict[str, float]:
        batches = evaluation_batches(rows, batch_size=32, max_rows=count)
        return evaluate(model, batches, plan.objective, accelerator, data.token_lengths)

    metrics = on(data.held_out, plan.max_eval_samples)
    if arguments.test_corpus:
        store = open_token_store(open_corpus(arguments.test_corpus), plan.tokenizer)
        tested = on(objective_over(plan, store.train, for_evaluation=True), TEST_ROWS)
        metrics |= {name.replace("eval_", "test_"): value for name, value in tested.items()}
    return metrics


def measure_ours(arguments: Arguments, folder: Path, seed: int) -> dict[str, float]:
    """The same of the model that a run of ours has left."""
    plan = make_plan(pretrain_arguments(arguments, folder, seed))
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    model = OURS[arguments.family].from_pretrained(folder).to(accelerator.device)
    return measure(model, arguments, plan, read_data(plan, accelerator), accelerator)


def pretrain_arguments(arguments: Arguments, folder: Path, seed: int) -> PretrainArguments:
    """Our run."""
    return PretrainArguments(
        model=f"{arguments.family}-{arguments.size}",
        corpus=arguments.corpus,
        budget=arguments.budget,
        seed=seed,
        output_dir=str(folder),
        overwrite_output_dir=True,
    )


def run_ours(arguments: Arguments, folder: Path, seed: int) -> dict[str, Any]:
    """Train ours in a process of its own; its figures."""
    wanted = dataclasses.asdict(pretrain_arguments(arguments, folder, seed))
    usual = dataclasses.asdict(PretrainArguments(output_dir=""))
    folder.parent.mkdir(parents=True, exist_ok=True)
    settings = folder.with_suffix(".json")
    write_json(settings, {name: value for name, value in wanted.items() if value != usual[name]})
    subprocess.run([sys.executable, "scripts/pretrain.py", str(settings)], check=True, cwd=REPOSITORY)
    return results_of(folder) | {"metrics": measure_ours(arguments, folder, seed)}


def run_peer(
    arguments: Arguments, peer: str, folder: Path, *, seed: int, learning_rate: float, budget: str
) -> dict[str, Any]:
    """Train a peer in a process of its own; its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = dataclasses.asdict(arguments) | {
        "peer": peer,
        "budget": budget,
        "seeds": [seed],
        "learning_rates": [learning_rate],
        "output_dir": str(folder),
    }
    write_json(folder / "arguments.json", settings)
    subprocess.run([sys.executable, __file__, str(folder / "arguments.json")], check=True, cwd=REPOSITORY)
    return results_of(folder)


def seconds_to(loss: float, metrics: Path) -> float | None:
    """When an evaluation of ours first was at or below a loss."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return next((line["seconds"] for line in lines if line.get("eval_loss", float("inf")) <= loss), None)


def search(arguments: Arguments, peer: str, output: Path) -> dict[str, float]:
    """What a peer's loss is after a short time with each learning rate."""

    def loss(rate: float) -> float:
        folder, budget = output / f"{peer}-search-{rate}", arguments.search_budget
        tried = run_peer(arguments, peer, folder, seed=arguments.seeds[0], learning_rate=rate, budget=budget)
        return float(tried["metrics"]["eval_loss"])

    rates = arguments.learning_rates
    open_token_store(open_corpus(arguments.corpus), load_tokenizer(OWN_TOKENIZER))  # not by all of them at once
    with ThreadPoolExecutor(len(rates)) as pool:
        each = pool.map if device().type == "cuda" else map
        return dict(zip(map(str, rates), each(loss, rates), strict=True))


def compare(arguments: Arguments, output: Path, seed: int, rates: dict[str, float]) -> dict[str, Any]:
    """Ours and its peers, one after another, with one seed."""
    everyone = ["ours", *PEERS[arguments.family]]
    turn = seed % len(everyone)
    found = {}
    for who in everyone[turn:] + everyone[:turn]:
        folder = output / f"{who}-{seed}"
        if who == "ours":
            result = run_ours(arguments, folder, seed)
        else:
            budget = arguments.budget
            result = run_peer(arguments, who, folder, seed=seed, learning_rate=rates[who], budget=budget)
        keep(folder, arguments.results, f"learning_efficiency-{output.name}/{who}-{seed}")
        found[who] = {key: result[key] for key in ("num_parameters", "training", "metrics")}
    for who in PEERS[arguments.family]:  # what is held out of the corpus is also measured on the way
        sooner = seconds_to(found[who]["metrics"]["eval_loss"], output / f"ours-{seed}" / "metrics.jsonl")
        found[who]["seconds_of_ours_to_its_loss"] = sooner
    return {"seed": seed, **found, "command": invocation(), "environment": environment()}


def main(arguments: Arguments) -> int:
    """A peer's own process, or the whole comparison."""
    if arguments.peer is not None:
        train_peer(arguments, arguments.peer)
        return 0
    budget = [] if arguments.budget == BUDGET else [arguments.budget]
    name = "-".join([arguments.family, arguments.size, *budget, *machine()])
    output = Path(arguments.output_dir).resolve() / name
    file = arguments.results / f"learning_efficiency-{name}.json"
    figures: dict[str, Any] = {
        "family": arguments.family,
        "budget": arguments.budget,
        "hardware": hardware(device()),
        "precision": "bf16" if computes_in_bfloat16() else "fp32",
        "corpus": [short(source) for source in arguments.corpus],
        "test_corpus": [short(source) for source in arguments.test_corpus],
        "measure": f"{'test' if arguments.test_corpus else 'eval'}_{MEASURES[arguments.family]}",
        "search": {"budget": arguments.search_budget, "learning_rates": arguments.learning_rates},
    }
    before = earlier(file, figures)
    figures |= {"peers": before.get("peers", {}), "runs": before.get("runs", [])}
    for peer in PEERS[arguments.family]:
        if peer not in figures["peers"]:
            figures["peers"][peer] = search(arguments, peer, output)
            write_json(file, figures)
    rates = {peer: float(min(losses, key=losses.__getitem__)) for peer, losses in figures["peers"].items()}
    for seed in arguments.seeds:
        if all(one["seed"] != seed for one in figures["runs"]):
            figures["runs"].append(compare(arguments, output, seed, rates))
            write_json(file, figures)
    charts.draw(file)
    for who in ("ours", *PEERS[arguments.family]):
        print(f"{who}: {mean(figures, who):.3f} {unit(figures['measure'])}")  # noqa: T201
    return 0


if __name__ == "__main__":
    run(Arguments, main)
