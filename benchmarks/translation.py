"""Multi30k from scratch, text only: ours, and the GRUs with attention that the Transformer replaced, in the same time.

::

    python benchmarks/translation.py --data multi30k --output_dir runs/translation

The folder holds ``train``, ``val`` and ``test_2016_flickr`` in ``.en`` and ``.de`` (Elliott et al. 2016), which may be
compressed. Both models have one tokenizer, trained on the two sides of the training set; both keep the epoch with the
best BLEU on the dev split, and translate the test split once. Ours goes first; the time that it took is the other's. A
tokenizer and a model of ours that an earlier command has finished in the same folder are taken from there, if its
settings were the same.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from matplotlib.figure import Figure
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import charts
from hf_minibert.command_line import invocation, run
from hf_minibert.data.parallel import read_pairs
from hf_minibert.evaluation.alignment import cross_attention, draw_weights
from hf_minibert.evaluation.translate import longest_translation
from hf_minibert.evaluation.translations import TranslationMetrics, signatures
from hf_minibert.files import write_json
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.translation import Translation
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.presets import SIZES, size_of
from hf_minibert.pretraining.arguments import parse_duration
from hf_minibert.runs.hardware import computes_in_bfloat16, hardware
from hf_minibert.tokenization import load_tokenizer
from plain_rnn import PlainRNN
from runs import Benchmark, device, last_two_parts, require_same, results_of, script, write_results

TRIAL_PAIRS = 2_000
RATE = 2e-3  # of the GRUs
WARMUP = 0.05  # of both
SENTENCE = "Two children in red coats are feeding the ducks at a lake."
"""What both translate for the picture of where they look."""


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Multi30k: train our encoder and decoder and the GRUs for the same time, and measure both."""

    data: str
    """Folder with train, val and test_2016_flickr in .en and .de."""
    output_dir: str = "runs/translation"
    """Folder for the runs."""
    budget: str = "1h"
    """Time of each training, with its evaluations."""
    model: str = "minibert-tiny"
    """The encoder; the decoder has its shape."""
    vocab_size: int = 4_000
    """Entries of the vocabulary of both languages."""
    dropout: float = 0.2
    """Of both."""
    batch_size: int = 128
    """Pairs in a step of both."""
    seed: int = 42
    """Of weights and order."""


def read(arguments: Arguments) -> tuple[Translation, dict[str, Dataset], Any]:
    """The splits as rows of token ids, made as the task makes them, and the tokenizer.

    Raises:
        UserError: the tokenizer is there, of other settings, which a model of ours may have, too.
    """
    output = Path(arguments.output_dir).resolve()
    folder, record = output / "tokenizer", output / "settings.json"
    names = ("model", "vocab_size", "dropout", "batch_size", "seed", "budget")
    settings = {name: vars(arguments)[name] for name in names}
    settings["data"] = last_two_parts(Path(arguments.data).resolve())
    if (folder / "tokenizer.json").exists():
        recorded = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        require_same(recorded, settings, output, "give another --output_dir")
    else:
        write_json(record, settings)
        pairs = read_pairs(arguments.data, source_lang="en", target_lang="de").splits["train"]
        text = output / "both_sides.txt"
        text.write_text("".join(f"{line}\n" for pair in pairs for line in pair), encoding="utf-8")
        script(
            "train_tokenizer.py",
            corpus=text,
            document="line",
            vocab_size=arguments.vocab_size,
            output_dir=folder,
            corpus_description="the training split of Multi30k, in English and German",
        )
    task = Translation(FinetuneArguments(**flags(arguments, output / "trial")))
    data = task.read()
    tokenizer = load_tokenizer(folder)
    return task, {split: task.encode(rows, split, tokenizer, 512) for split, rows in data.splits.items()}, tokenizer


def flags(arguments: Arguments, output_dir: Path, **more: Any) -> dict[str, Any]:
    """What `finetune` is told."""
    return {
        "task": "translation",
        "model": arguments.model,
        "tokenizer_name_or_path": str(Path(arguments.output_dir).resolve() / "tokenizer"),
        "dataset": str(Path(arguments.data).resolve()),
        "source_lang": "en",
        "target_lang": "de",
        "warmup_steps": WARMUP,
        "hidden_dropout_prob": arguments.dropout,
        "per_device_train_batch_size": arguments.batch_size,
        "early_stopping_patience": 1_000,  # BLEU still rises when the rate falls
        "seed": arguments.seed,
        "output_dir": str(output_dir),
        "overwrite_output_dir": True,
    } | more


def train_ours(arguments: Arguments, pairs: int) -> dict[str, Any]:
    """As many epochs as fit into the budget, by a trial on some pairs; returns the results."""
    output, seconds = Path(arguments.output_dir).resolve(), parse_duration(arguments.budget)
    if (output / "ours" / "results.json").exists():
        return results_of(output / "ours")
    some = min(TRIAL_PAIRS, pairs)
    data = Path(arguments.data).resolve()
    splits = {"dataset": data / "train", "eval_dataset": data / "val"}  # the test split is read once, at the end
    trial = {"max_train_samples": some, "max_eval_samples": 64, "num_train_epochs": 1}
    script("finetune.py", **flags(arguments, output / "trial", **splits, **trial))
    an_epoch = results_of(output / "trial")["training"]["seconds"] * pairs / some
    epochs = max(1.0, round(seconds / an_epoch, 1))
    script("finetune.py", **flags(arguments, output / "ours", num_train_epochs=epochs))
    return results_of(output / "ours")


def batch(rows: Dataset, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources and targets, padded, on the device."""
    sources, targets = (
        pad_sequence([torch.tensor(row) for row in rows[name]], batch_first=True, padding_value=filler).to(device())
        for name, filler in (("input_ids", pad_id), ("labels", IGNORE_INDEX))
    )
    return sources, targets


def translated(model: PlainRNN, rows: Dataset, tokenizer: Any, beams: int) -> list[str]:
    """Translations of a split."""
    model.eval()
    texts: list[str] = []
    for start in range(0, len(rows), 64):
        sources, _ = batch(rows.select(range(start, min(start + 64, len(rows)))), model.pad_id)
        written = model.translate(sources, beams, longest_translation(sources.shape[1]))
        texts += [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
    model.train()
    return texts


def measured(texts: list[str], task: Translation, split: str) -> dict[str, float]:
    """The metrics of translations of a split."""
    found = TranslationMetrics().compute(predictions=texts, references=task.examples[split]["target"])
    assert found is not None
    return {f"{split}_{name}": value for name, value in found.items()}


def train_rnn(
    arguments: Arguments, task: Translation, rows: dict[str, Dataset], tokenizer: Any, seconds: float
) -> tuple[PlainRNN, dict[str, Any]]:
    """The GRUs after a time, with the weights of the epoch that was best on the dev split."""
    torch.manual_seed(arguments.seed)
    model = PlainRNN(
        vocab_size=len(tokenizer),
        width=SIZES[size_of(arguments.model)]["hidden_size"],
        dropout=arguments.dropout,
        begin_id=tokenizer.cls_token_id,
        end_id=tokenizer.sep_token_id,
        pad_id=tokenizer.pad_token_id,
    ).to(device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    begin, steps, pairs, best = time.perf_counter(), 0, 0, {"eval_bleu": -math.inf}
    weights = model.state_dict()
    draw = np.random.default_rng(arguments.seed)
    lengths = np.array(rows["train"]["length"])
    with tqdm(total=round(seconds), desc="GRUs", unit="s", bar_format="{desc} {n:.0f}/{total} s {postfix}") as bar:
        while (spent := time.perf_counter() - begin) < seconds:
            order = draw.permutation(len(lengths))
            chunks = [chunk[np.argsort(lengths[chunk])] for chunk in np.array_split(order, max(1, len(order) // 6_400))]
            batches = [part for c in chunks for part in np.array_split(c, math.ceil(len(c) / arguments.batch_size))]
            for place in draw.permutation(len(batches)):
                share = (time.perf_counter() - begin) / seconds
                if share >= 1:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = RATE * min(share / WARMUP + 1e-3, 1 - share)
                sources, targets = batch(rows["train"].select(batches[place]), model.pad_id)
                with torch.autocast(device().type, torch.bfloat16, enabled=computes_in_bfloat16()):
                    logits, _ = model(sources, targets.masked_fill(targets == IGNORE_INDEX, model.pad_id))
                loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                steps, pairs = steps + 1, pairs + len(batches[place])
                bar.update(time.perf_counter() - begin - bar.n)
            found = measured(translated(model, rows["eval"], tokenizer, 1), task, "eval")
            bar.set_postfix_str(f"loss {loss:.3f}, dev BLEU {found['eval_bleu']:.2f}")
            if found["eval_bleu"] > best["eval_bleu"]:
                best, weights = found, {name: weight.clone() for name, weight in model.state_dict().items()}
    model.load_state_dict(weights)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    training = {"seconds": round(spent, 1), "steps": steps, "epochs": round(pairs / len(lengths), 1)}
    return model, {"num_parameters": parameters, "training": training | {"hardware": hardware(device())}}


def chart(model: PlainRNN, ours: Path, tokenizer: Any) -> Figure:
    """Where both look while they write the same sentence, each its own translation."""
    tokens = torch.tensor([tokenizer(SENTENCE).input_ids], device=device())
    opened = AutoModelForSeq2SeqLM.from_pretrained(ours).to(device()).eval()
    own = AutoTokenizer.from_pretrained(ours)
    written = opened.generate(tokens, max_length=longest_translation(tokens.shape[1]))[:, 1:]
    row = model.eval().translate(tokens, 5, longest_translation(tokens.shape[1]))[0]
    row = row[: row.index(model.end_id) + 1] if model.end_id in row else row  # other beginnings may have gone on
    theirs = torch.tensor([row], device=device())
    with torch.no_grad():
        found = {
            "GRUs with attention": (theirs, model(tokens, theirs)[1][0].cpu()),
            "cross-attention of ours": (written, cross_attention(opened, tokens, written)),
        }
    figure = Figure(figsize=(11, 6), layout="constrained")
    for axes, (title, (target, weights)) in zip(figure.subplots(1, 2), found.items(), strict=True):
        names = [[str(own.decode([token])) for token in row] for row in (tokens[0].tolist(), target[0].tolist())]
        draw_weights(axes, weights.numpy(), *names)
        axes.set_title(title)
    return figure


def table(figures: dict[str, Any]) -> list[str]:
    """What both reached on the test split."""
    minutes = figures["ours"]["training"]["seconds"] / 60
    lines = [
        f"| Multi30k en-de, test 2016, {minutes:.0f} minutes on {figures['ours']['training']['hardware']} "
        "| parameters | epochs | BLEU | lower-cased | chrF |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, who in (("ours", f"`{figures['model']}` and a decoder of its shape"), ("rnn", "GRUs with attention")):
        one = figures[name]
        metrics = [one["metrics"][f"test_{metric}"] for metric in ("bleu", "lowercase_bleu", "chrf")]
        lines.append(
            f"| {who} | {one['num_parameters'] / 1e6:.1f} M | {one['training']['epochs']:g} | "
            + " | ".join(f"{value:.1f}" for value in metrics)
            + " |"
        )
    return [*lines, "", f"(BLEU: {figures['signatures']['bleu']}; seed {figures['seed']}; `{figures['command']}`)"]


def main(arguments: Arguments) -> int:
    """Both, one after the other."""
    output = Path(arguments.output_dir).resolve()
    output.mkdir(parents=True, exist_ok=True)
    task, rows, tokenizer = read(arguments)
    ours = train_ours(arguments, len(rows["train"]))
    model, rnn = train_rnn(arguments, task, rows, tokenizer, ours["training"]["seconds"])
    rnn["metrics"] = {
        name: value
        for split in ("eval", "test")
        for name, value in measured(translated(model, rows[split], tokenizer, 5), task, split).items()
    }
    figures = {
        "command": invocation(),
        "budget": arguments.budget,
        "model": arguments.model,
        "seed": arguments.seed,
        "signatures": signatures(),
        "ours": {name: ours[name] for name in ("num_parameters", "training", "metrics")},
        "rnn": rnn,
    }
    file = arguments.results / "translation.json"
    write_results(file, figures)
    charts.save(chart(model, output / "ours", tokenizer), file)
    print("\n".join(table(json.loads(json.dumps(figures)))))
    return 0


if __name__ == "__main__":
    run(Arguments, main)
