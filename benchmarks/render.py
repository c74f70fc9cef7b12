"""Put the figures of ``benchmarks/results`` into the README and this folder's, between their markers; draw the charts.

::

    python benchmarks/render.py

Nobody types a figure; a test checks that the documents say what the files say.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import charts
from hf_minibert.command_line import run
from hf_minibert.files import write_text
from hf_minibert.presets import FAMILIES, LEARNING_RATES, SIZES, START
from hf_minibert.pretraining.arguments import PretrainArguments, parse_duration
from hf_minibert.pretraining.optimization import EMBEDDINGS_RATE
from hf_minibert.runs.hardware import TOKENS_PER_BATCH
from runs import REPOSITORY, RESULTS, mean, unit

DOCUMENTS = (
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "benchmarks" / "README.md",
)
PLACE = re.compile(r"(<!-- figures:([\w-]+) -->\n).*?(<!-- end:\2 -->)", flags=re.DOTALL)


@dataclass(kw_only=True)
class Arguments:
    """Render all figures into the documents."""


def quickstart(figures: dict[str, Any]) -> list[str]:
    """Held-out loss of both models beside what frequencies give."""
    bert, gpt = (figures["runs"][name] for name in ("minibert-mini", "minigpt-mini"))
    masked, causal, training = bert["metrics"], gpt["metrics"], bert["training"]
    machine = f"{training['hardware']}, {training['precision']}"
    rows = [
        f"| {training['seconds'] / 60:.0f} minutes on {machine} | after training | by frequencies alone |",
        "|---|---:|---:|",
        f"| `minibert-mini`, nats per masked token | **{masked['eval_loss']:.2f}** | {masked['unigram_loss']:.2f} |",
        f"| `minigpt-mini`, nats per next token | **{causal['eval_loss']:.2f}** | {causal['unigram_loss']:.2f} |",
        f"| `minigpt-mini`, bits per byte | **{causal['eval_bits_per_byte']:.2f}** "
        f"| {causal['byte_unigram_bits_per_byte']:.2f} |",
    ]
    corpus = bert["corpus"]["name"]
    return [*rows, "", f"(held-out documents of the {corpus} corpus, seed {figures['seed']}; `{figures['command']}`)"]


def imdb(figures: dict[str, Any]) -> list[str]:
    """Accuracy on the dev split and on the test set, and what it took."""
    before, after = figures["pretraining"], figures["finetuning"]
    training, metrics = before["training"], after["metrics"]
    return [
        f"| IMDb, `{before['preset']}`, {training['hardware']}, {training['precision']} | |",
        "|---|---:|",
        f"| pre-training on the reviews without labels | {training['seconds'] / 60:.0f} minutes, "
        f"{training['tokens_seen'] / 1e6:.1f} million tokens |",
        f"| masked-LM loss, held out (by frequencies alone) | {before['metrics']['eval_loss']:.2f} "
        f"({before['metrics']['unigram_loss']:.2f}) |",
        f"| accuracy on the dev split, a tenth of the training set | {metrics['eval_accuracy']:.1%} |",
        f"| **accuracy on the test set** | **{metrics['test_accuracy']:.1%}** |",
        "",
        f"(fine-tuned on {after['dataset']['train_examples']:,} reviews in {after['training']['epochs']:g} pass(es), "
        f"seed {figures['seeds']['finetuning']}; `{figures['command']}`)",
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


def time_to_loss(run: dict[str, Any], peer: str) -> str:
    """The share of its time in which ours came to a peer's loss; it may have been there before it was evaluated."""
    seconds = run[peer]["seconds_of_ours_to_its_loss"]
    if seconds is None:
        return "not reached"
    return f"at most {math.ceil(100 * seconds / run['ours']['training']['seconds'])}%"


def precisions(figures: dict[str, Any]) -> str:
    """The number formats of a comparison: the peers keep to those of their scripts."""
    whose = {who: figures["runs"][0][who]["training"]["precision"] for who in ("ours", *figures["peers"])}
    return ", ".join(f"{who} in {precision}" for who, precision in whose.items())


def learning_efficiency(figures: dict[str, Any]) -> list[str]:
    """Held-out loss of ours and of its peers after the same time."""
    name, digits = figures["measure"], 3 if figures["measure"].endswith("bits_per_byte") else 2
    peers = figures["peers"]
    lines = [
        f"| {figures['budget']} on {figures['hardware']}, {unit(name)} | ours | "
        + " | ".join(f"{peer} | time to its loss" for peer in peers)
        + " |",
        "|---|---:|" + "---:|---:|" * len(peers),
    ]
    for one in figures["runs"]:
        cells = [f"seed {one['seed']}", f"**{one['ours']['metrics'][name]:.{digits}f}**"]
        for peer in peers:
            cells += [f"{one[peer]['metrics'][name]:.{digits}f}", time_to_loss(one, peer)]
        lines.append(f"| {' | '.join(cells)} |")
    for peer, losses in peers.items():
        rates = ", ".join(f"{rate}: {loss:.2f}" for rate, loss in losses.items())
        lines += ["", f"(the learning rate of {peer}: best of {rates} nats, in {figures['search']['budget']} each)"]
    steps = (
        f"{who} {', '.join(format(one[who]['training']['steps'], ',') for one in figures['runs'])}"
        for who in ("ours", *peers)
    )
    lines += ["", f"(optimizer steps, seed by seed: {'; '.join(steps)})"]
    measured = ", ".join(figures["test_corpus"]) or "documents held out of it, by which the recipe was chosen, too"
    commands = "`, `".join(dict.fromkeys(one["command"] for one in figures["runs"]))
    return [
        *lines,
        "",
        f"({precisions(figures)}; text: {', '.join(figures['corpus'])}; measured on {measured}; `{commands}`)",
    ]


def objectives(figures: dict[str, Any]) -> list[str]:
    """What each objective gives and costs, for the same time."""
    first = figures["runs"][0]
    datasets = first["finetuning"]
    lines = [
        f"| {figures['budget']} on {first['training']['hardware']} | million tokens "
        "| nats per masked token (by frequencies alone) | bits per byte (by frequencies alone) "
        f"| {' | '.join(f'accuracy, {name}' for name in datasets)} |",
        "|---|---:|---:|---:|" + "---:|" * len(datasets),
    ]
    for one in figures["runs"]:
        before = one["metrics"]
        masked = before.get("eval_mlm_loss", before["eval_loss"] if one["objective"] == "mlm" else None)
        pairs = (
            (masked, before["unigram_loss"]),
            (before.get("eval_bits_per_byte"), before.get("byte_unigram_bits_per_byte")),
        )
        cells = [f"{one['training']['tokens_seen'] / 1e6:.1f}"]
        cells += ["" if loss is None else f"{loss:.2f} ({alone:.2f})" for loss, alone in pairs]
        cells += [f"{one['finetuning'][name]['eval_accuracy']:.1%}" for name in datasets]
        lines.append(f"| `{one['objective']}` | {' | '.join(cells)} |")
    pairs_told = ", ".join(
        f"`{one['objective']}` {one['metrics']['eval_nsp_accuracy']:.0%}"
        for one in figures["runs"]
        if "eval_nsp_accuracy" in one["metrics"]
    )
    commonest = " | ".join(f"{one['majority_accuracy']:.1%}" for one in datasets.values())
    return [
        *lines,
        f"| always the commonest label | | | | {commonest} |",
        "",
        f"(`{first['model']}` and its causal twin on {', '.join(figures['corpus'])}; pairs of segments told right: "
        f"{pairs_told}; `{figures['command']}`)",
    ]


def recipe(figures: dict[str, Any]) -> list[str]:
    """What changing one thing of the default gives, best first."""
    is_causal = figures["family"] == "minigpt"
    key = "eval_bits_per_byte" if is_causal else "eval_loss"
    rows = figures["rows"]
    baselines = {row["seed"]: row["metrics"][key] for row in rows if row["variant"] == "baseline"}
    end = figures["end"]
    length = f"{end['max_tokens'] / 1e6:g} million tokens" if "max_tokens" in end else end["budget"]
    length += f" on {end['hardware']}" if "hardware" in end else ""
    lines = [
        f"| `{figures['family']}-{figures['size']}`, {length} | seed | {unit(key)} | against the baseline |",
        "|---|---:|---:|---:|",
    ]
    losses = [(row["metrics"].get("eval_mlm_loss", row["metrics"][key]), row) for row in rows]
    for loss, row in sorted(losses, key=lambda pair: pair[0]):
        lines.append(f"| {row['variant']} | {row['seed']} | {loss:.3f} | {loss - baselines[row['seed']]:+.3f} |")
    return [*lines, "", f"(held-out text of {', '.join(figures['corpus'])})"]


def finetuning(figures: dict[str, Any]) -> list[str]:
    """What each way to fine-tune gives, best first."""
    lines = [
        f"| {figures['model']} on {figures['max_train_samples']:,} texts | learning rate | accuracy | loss |",
        "|---|---:|---:|---:|",
    ]
    for row in sorted(figures["rows"], key=lambda row: -row["metrics"]["eval_accuracy"]):
        metrics = row["metrics"]
        lines.append(
            f"| {row['variant']} | {row['learning_rate']:g} | {metrics['eval_accuracy']:.1%} "
            f"| {metrics['eval_loss']:.3f} |"
        )
    note = f"{figures['max_eval_samples']:,} held-out texts of {figures['dataset']}, seed {figures['seed']}"
    return [*lines, "", f"({note}; one pass, without dropout)"]


def shakespeare(figures: dict[str, Any]) -> list[str]:
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


def targets() -> list[str]:
    """What was asked of this package beside what the files of figures say, of either kind of CPU."""
    lines = ["| asked | | with bfloat16 | without |", "|---|---:|---:|---:|"]

    def show(what: str, asked: str, file: str, read: Callable[[dict[str, Any]], str]) -> None:
        paths = (RESULTS / f"{name}.json" for name in (file, f"{file}-fp32"))
        cells = [read(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else "" for path in paths]
        lines.append(f"| {what} | {asked} | {' | '.join(cells)} |")

    def ways(figures: dict[str, Any], model: str, length: int, variant: str) -> dict[str, dict[str, Any]]:
        """The rows of a variant in its table: one of each precision, and compiled."""
        (table,) = (one for one in figures["tables"] if (one["model"], one["sequence_length"]) == (model, length))
        rows = [(row["variant"].removeprefix(variant), row) for row in table["rows"]]
        return {row["precision"] + rest: row for rest, row in rows if rest in ("", ", compiled")}

    def faster(
        figures: dict[str, Any], *, model: str, length: int, variant: str, than: str, digits: str = ".2f", less: int = 0
    ) -> str:
        """How many times as fast a variant is as another in the same way."""
        ours, others = (ways(figures, model, length, name) for name in (variant, than))
        both = {way: row["ratio"] / others[way]["ratio"] - less for way, row in ours.items() if way in others}
        return "; ".join(f"{way} {ratio:{digits}}" for way, ratio in both.items())

    def column(figures: dict[str, Any], *, model: str, length: int, variant: str, of: str, digits: str) -> str:
        return "; ".join(f"{way} {row[of]:{digits}}" for way, row in ways(figures, model, length, variant).items())

    shapes = (("minibert-mini", 128, "2.0"), ("minibert-mini", 512, "2.0"), ("minigpt-mini", 256, "1.7"))
    for model, length, asked in shapes:
        adamw = f"{model.partition('-')[0]} modern"
        here: dict[str, Any] = {"model": model, "length": length, "variant": adamw}
        what = f"`{model}`, {length} tokens a row: a step with AdamW against stock in fp32"
        surcharge = partial(faster, **here, than=f"{adamw}, Muon", digits=".0%", less=1)
        show(what, f"≥ {asked}", "step_speed", partial(column, **here, of="ratio", digits=".2f"))
        show("its utilisation", "≥ 70%", "step_speed", partial(column, **here, of="utilisation", digits=".0%"))
        show("Muon's surcharge", "≤ 15%", "step_speed", surcharge)
    show(
        "`minigpt-mini`: a step with AdamW against nanoGPT's in the same precision",
        "≥ 1.0",
        "step_speed",
        partial(faster, model="minigpt-mini", length=256, variant="minigpt modern", than="nanoGPT"),
    )
    show(
        "preparing text, against tokenise-and-group, in 1 and 2 processes",
        "≥ 5",
        "data_speed",
        lambda figures: ", ".join(f"{row['ratio']:.1f}" for row in figures["preparation_megabytes_per_second"]),
    )
    show(
        "million tokens a second of a loader process, the slowest of mlm, mlm+nsp and clm",
        "≥ 5",
        "data_speed",
        lambda figures: f"{min(figures['loader_tokens_per_second'].values()) / 1e6:.1f}",
    )
    show(
        "resident MB while 1 GB of text is prepared",
        "≤ 1,500",
        "data_speed",
        lambda figures: f"{figures['memory']['resident_megabytes']:,}",
    )

    def seeds(figures: dict[str, Any]) -> str:
        return f"{len(figures['runs'])} seed{'s' if len(figures['runs']) > 1 else ''}"

    def below(figures: dict[str, Any]) -> str:
        return f"{mean(figures, 'stock') - mean(figures, 'ours'):.2f} ({seeds(figures)})"

    def fewer(figures: dict[str, Any], peer: str) -> str:
        return f"{1 - mean(figures, 'ours') / mean(figures, peer):.1%} ({seeds(figures)})"

    def sooner(figures: dict[str, Any]) -> str:
        return ", ".join(time_to_loss(one, "stock") for one in figures["runs"])

    bert, gpt = "learning_efficiency-minibert-mini", "learning_efficiency-minigpt-mini"
    show("masked LM, 10 minutes: nats below stock BERT", "≥ 1.5", bert, below)
    show("masked LM, 60 minutes: time to stock's loss", "≤ 25%", f"{bert}-60m", sooner)
    show("causal LM, 10 minutes: fewer bits per byte than GPT-2", "≥ 13%", gpt, lambda one: fewer(one, "stock"))
    show("causal LM, 10 minutes: fewer bits per byte than nanoGPT", "≥ 13%", gpt, lambda one: fewer(one, "nanogpt"))
    show("causal LM, 10 minutes: time to GPT-2's loss", "≤ 33%", gpt, sooner)
    for what, file in (
        ("Shakespeare by character: nats below nanoGPT", "shakespeare"),
        ("the same on a slower CPU", "shakespeare-slower-cpu"),
    ):
        show(
            what,
            "≥ 0.2",
            file,
            lambda figures: ", ".join(f"{one['nanogpt']['loss'] - one['ours']['loss']:.2f}" for one in figures["runs"]),
        )
    return lines


def efficiency() -> list[str]:
    """What a budget of time buys, ours and its peers', in short."""
    bert, hour, bert_on_gpu, gpt, gpt_on_gpu, characters = (
        json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in (
            "learning_efficiency-minibert-mini",
            "learning_efficiency-minibert-mini-60m",
            "learning_efficiency-minibert-mini-15s-cuda",
            "learning_efficiency-minigpt-mini",
            "learning_efficiency-minigpt-mini-15s-cuda",
            "shakespeare",
        )
    )
    of_ours, of_nanogpt = (f"{characters['nats_per_character'][who]:.3f}" for who in ("ours", "nanogpt"))
    measured = {True: "other texts", False: "documents held out"}
    comparisons = (bert, hour, bert_on_gpu, gpt, gpt_on_gpu)
    tried = " or ".join(sorted({figures["search"]["budget"] for figures in comparisons}, key=parse_duration))

    def row(figures: dict[str, Any]) -> str:
        digits = 3 if figures["measure"].endswith("bits_per_byte") else 2
        peers = (f"{mean(figures, who):.{digits}f}" if who in figures["peers"] else "" for who in ("stock", "nanogpt"))
        return (
            f"| `{figures['family']}-mini`, {figures['budget']} on {figures['hardware']}, {unit(figures['measure'])} "
            f"| **{mean(figures, 'ours'):.{digits}f}** | {' | '.join(peers)} "
            f"| {measured[bool(figures['test_corpus'])]} |"
        )

    everything = (*comparisons, characters)
    seeds = ", ".join(str(len(figures["runs"])) for figures in everything)
    weights = [
        (one["ours"]["num_parameters"], one[who]["num_parameters"])
        for figures in everything
        for one in figures["runs"]
        for who in ("stock", "nanogpt")
        if who in one
    ]
    apart = math.ceil(100 * max(abs(ours / peer - 1) for ours, peer in weights))
    on_gpu = gpt_on_gpu["runs"][0]["nanogpt"]["training"]["precision"]
    return [
        "| | ours | stock | nanoGPT | measured on |",
        "|---|---:|---:|---:|---|",
        *(row(figures) for figures in comparisons),
        f"| Shakespeare by character, {characters['budget']} on {characters['hardware']}, nats | **{of_ours}** | "
        f"| {of_nanogpt} | its last tenth |",
        "",
        f"(the same time and text, and within {apart}% the same number of weights; {precisions(gpt)}, on a GPU "
        f"{on_gpu}, where ours reads {TOKENS_PER_BATCH['cuda']:,} tokens a step and its peers eight rows; all but the "
        f"last trained on {', '.join(bert['corpus'])}, of which the documents held out chose our recipe, too, and the "
        f"other texts nothing; a peer's rate is the best of four after {tried} each; Shakespeare with nanoGPT's own "
        f"settings and some of ours; seeds, row by row: {seeds}; `benchmarks/README.md` says how)",
    ]


def defaults() -> list[str]:
    """The recipe as the code has it."""
    usual = PretrainArguments(output_dir="")
    rows = [
        (f"`--learning_rate`, {optimizer}, {architecture}", by_size.values())
        for optimizer, rates in LEARNING_RATES.items()
        for architecture, by_size in rates.items()
    ]
    shared = {
        "residual ends start, modern": START["modern"]["residual_init"],
        "`--optimizer`": usual.optimizer,
        "rate of embeddings and norms beside Muon's": EMBEDDINGS_RATE,
        "`--lr_scheduler_type`": usual.lr_scheduler_type,
        "`--warmup_steps`": usual.warmup_steps,
        "`--weight_decay`": ", ".join(f"{family.weight_decay} ({name})" for name, family in FAMILIES.items()),
        "`--adam_beta1`, `--adam_beta2`": f"{usual.adam_beta1}, {usual.adam_beta2}",
        "`--max_grad_norm`": usual.max_grad_norm,
        "`--mlm_probability`": usual.mlm_probability,
        "tokens a step on each device": f"{TOKENS_PER_BATCH['cpu']:,}; on a CUDA GPU {TOKENS_PER_BATCH['cuda']:,}",
        "`--max_seq_length`": ", ".join(f"{family.max_seq_length} ({name})" for name, family in FAMILIES.items()),
    }
    lines = [f"| | {' | '.join(SIZES)} |", "|---|" + "---:|" * len(SIZES)]
    lines += [f"| {name} | {' | '.join(f'{value:g}' for value in values)} |" for name, values in rows]
    return lines + [f"| {name} | {' | '.join([str(value)] * len(SIZES))} |" for name, value in shared.items()]


TABLES = {
    table.__name__: table
    for table in (
        quickstart,
        imdb,
        step_speed,
        data_speed,
        learning_efficiency,
        objectives,
        recipe,
        finetuning,
        shakespeare,
    )
}
WITHOUT_FILE = {table.__name__: table for table in (targets, efficiency, defaults)}


def render(text: str) -> str:
    """A document with every table as the files have it now; ``name-part`` is a file of the table ``name``."""

    def fill(place: re.Match[str]) -> str:
        begin, name, end = place.groups()
        if name in WITHOUT_FILE:
            return begin + "\n".join(WITHOUT_FILE[name]()) + "\n" + end
        figures = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        return begin + "\n".join(TABLES[name.partition("-")[0]](figures)) + "\n" + end

    return PLACE.sub(fill, text)


def main(_: Arguments) -> int:
    """Rewrite the documents, and draw the charts again."""
    for document in DOCUMENTS:
        write_text(document, render(document.read_text(encoding="utf-8")))
    for file in RESULTS.glob("*.json"):
        charts.draw(file)
    return 0


if __name__ == "__main__":
    run(Arguments, main)
