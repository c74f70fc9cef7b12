"""Put the figures of ``benchmarks/results`` into the README and this folder's, between their markers.

::

    python benchmarks/render.py

Nobody types a figure; a test checks that the documents say what the files say.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_minibert.command_line import run
from hf_minibert.files import write_text

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
DOCUMENTS = (REPOSITORY / "README.md", REPOSITORY / "benchmarks" / "README.md")
PLACE = re.compile(r"(<!-- figures:([\w-]+) -->\n).*?(<!-- end:\2 -->)", flags=re.DOTALL)


@dataclass(kw_only=True)
class Arguments:
    """Render all figures into the documents."""


def quickstart(figures: dict[str, Any]) -> list[str]:
    """Held-out loss of both models beside what frequencies give."""
    bert, gpt = (figures["runs"][name] for name in ("minibert-mini", "minigpt-mini"))
    masked, causal, training = bert["metrics"], gpt["metrics"], bert["training"]
    rows = [
        f"| {training['seconds'] / 60:.0f} minutes on {training['hardware']} | after training | by frequencies alone |",
        "|---|---:|---:|",
        f"| `minibert-mini`, nats per masked token | **{masked['eval_loss']:.2f}** | {masked['unigram_loss']:.2f} |",
        f"| `minigpt-mini`, nats per next token | **{causal['eval_loss']:.2f}** | {causal['unigram_loss']:.2f} |",
        f"| `minigpt-mini`, bits per byte | **{causal['eval_bits_per_byte']:.2f}** "
        f"| {causal['byte_unigram_bits_per_byte']:.2f} |",
    ]
    corpus = bert["corpus"]["name"]
    return [*rows, "", f"(held-out documents of the {corpus} corpus, seed {figures['seed']}; `{figures['command']}`)"]


def imdb(figures: dict[str, Any]) -> list[str]:
    """Accuracy on the test set, which was measured once, and what it took."""
    before, after = figures["pretraining"], figures["finetuning"]
    training, metrics = before["training"], after["metrics"]
    return [
        f"| IMDb, `{before['preset']}`, {training['hardware']} | |",
        "|---|---:|",
        f"| pre-training on the reviews without labels | {training['seconds'] / 60:.0f} minutes |",
        f"| masked-LM loss, held out (by frequencies alone) | {before['metrics']['eval_loss']:.2f} "
        f"({before['metrics']['unigram_loss']:.2f}) |",
        f"| accuracy on the dev split, a tenth of the training set | {metrics['eval_accuracy']:.1%} |",
        f"| **accuracy on the test set** | **{metrics['test_accuracy']:.1%}** |",
        "",
        f"(fine-tuned on {after['dataset']['train_examples']:,} reviews in {after['training']['epochs']:g} pass(es), "
        f"seed {figures['seeds']['finetuning']}; `python benchmarks/imdb.py --data FOLDER`)",
    ]


def step_speed(figures: dict[str, Any]) -> list[str]:
    """Tokens per second as ratios to the stock model in the same run."""
    lines = []
    for table in figures["tables"]:
        lines += [
            f"| {table['model']}, {table['sequence_length']} tokens a row, {figures['hardware']} | precision | speed "
            "against the first | utilisation | spread |",
            "|---|---|---:|---:|---:|",
        ]
        lines += [
            f"| {row['variant']} | {row['precision']} | {row['ratio']:.2f} | {row['utilisation']:.0%} "
            f"| {row['spread']:.0%} |"
            for row in table["rows"]
        ]
        for name, shares in table["profile"].items():
            top = ", ".join(f"`{operation}` {share:.0%}" for operation, share in list(shares.items())[:5])
            lines += ["", f"Where a step of {name} goes: {top}.", ""]
    command = f"`{figures['command']}`"
    return [*lines, f"({figures['tokens_per_step']:,} tokens a step, median of {figures['rounds']}; {command})"]


def data_speed(figures: dict[str, Any]) -> list[str]:
    """Preparation beside the stock scripts', the loader's speed, and memory."""
    lines = [
        f"| preparing text, {figures['hardware']} | ours | tokenise-and-group | ratio |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row['processes']} process{'es' if row['processes'] > 1 else ''}, MB/s | {row['ours']:.2f} "
        f"| {row['tokenise-and-group']:.2f} | **{row['ratio']:.1f}** |"
        for row in figures["preparation_megabytes_per_second"]
    ]
    speeds = figures["loader_tokens_per_second"]
    lines += ["", "| one loader process | million tokens per second |", "|---|---:|"]
    lines += [f"| {name} | {speed / 1e6:.1f} |" for name, speed in speeds.items()]
    if "memory" in figures:
        memory = figures["memory"]
        lines += [
            "",
            f"A store of {memory['megabytes_of_text']:,} MB of text was built within {memory['resident_megabytes']:,} "
            "MB of resident memory.",
        ]
    return [*lines, "", f"(`{figures['command']}`)"]


def learning_efficiency(figures: dict[str, Any]) -> list[str]:
    """Held-out loss of ours and of the stock peer after the same time."""
    unit = "nats per masked token" if figures["measure"] == "eval_loss" else "bits per byte"
    lines = [
        f"| {figures['budget']} on {figures['hardware']}, {unit} | ours | {figures['peer']} | time to its loss |",
        "|---|---:|---:|---:|",
    ]
    for one in figures["runs"]:
        ours, peer = one["ours"][figures["measure"]], one["peer"][figures["measure"]]
        seconds = one["seconds_to_the_peers_loss"]
        share = "not reached" if seconds is None else f"at most {seconds / one['seconds']:.0%} of it"
        lines.append(f"| seed {one['seed']} | **{ours:.2f}** | {peer:.2f} | {share} |")
    rates = ", ".join(f"{rate}: {loss:.2f}" for rate, loss in figures["peers_learning_rates"].items())
    return [*lines, "", f"(its learning rate is the best of {rates}; text: {', '.join(figures['corpus'])})"]


def objectives(figures: dict[str, Any]) -> list[str]:
    """What each objective gives and costs, for the same time."""
    training = figures["runs"][0]["training"]
    lines = [
        f"| {figures['budget']} on {training['hardware']} | million tokens | nats per masked token | bits per byte "
        "| accuracy after fine-tuning |",
        "|---|---:|---:|---:|---:|",
    ]
    for one in figures["runs"]:
        before, after = one["metrics"], one["finetuning"]["metrics"]
        masked = before.get("eval_mlm_loss", before["eval_loss"] if one["objective"] == "mlm" else None)
        bits = before.get("eval_bits_per_byte")
        cells = [f"{one['training']['tokens_seen'] / 1e6:.1f}"]
        cells += ["" if value is None else f"{value:.2f}" for value in (masked, bits)]
        lines.append(f"| `{one['objective']}` | {' | '.join(cells)} | {after['eval_accuracy']:.1%} |")
    first = figures["runs"][0]
    return [
        *lines,
        "",
        f"(`{first['model']}` and its causal twin on {', '.join(figures['corpus'])}; fine-tuned on "
        f"{first['finetuning']['dataset']['name']}, where always saying the commonest label gives "
        f"{first['finetuning']['metrics']['majority_accuracy']:.1%}; `{figures['command']}`)",
    ]


def recipe(figures: dict[str, Any]) -> list[str]:
    """What changing one thing of the default gives, best first."""
    is_causal = figures["family"] == "minigpt"
    key, unit = ("eval_bits_per_byte", "bits per byte") if is_causal else ("eval_loss", "nats per masked token")
    rows = figures["rows"]
    baselines = {row["seed"]: row["metrics"][key] for row in rows if row["variant"] == "baseline"}
    name, tokens = f"{figures['family']}-{figures['size']}", figures["max_tokens"] / 1e6
    lines = [
        f"| `{name}`, {tokens:g} million tokens | seed | {unit} | against the baseline |",
        "|---|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: row["metrics"][key]):
        value = row["metrics"][key]
        lines.append(f"| {row['variant']} | {row['seed']} | {value:.3f} | {value - baselines[row['seed']]:+.3f} |")
    return [*lines, "", f"(held-out text of {', '.join(figures['corpus'])})"]


TABLES = {
    table.__name__: table
    for table in (quickstart, imdb, step_speed, data_speed, learning_efficiency, objectives, recipe)
}


def render(text: str) -> str:
    """A document with every table as the files have it now; ``name-part`` is a file of the table ``name``."""

    def fill(place: re.Match[str]) -> str:
        begin, name, end = place.groups()
        figures = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        return begin + "\n".join(TABLES[name.partition("-")[0]](figures)) + "\n" + end

    return PLACE.sub(fill, text)


def main(_: Arguments) -> int:
    """Rewrite the documents."""
    for document in DOCUMENTS:
        write_text(document, render(document.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    run(Arguments, main)
