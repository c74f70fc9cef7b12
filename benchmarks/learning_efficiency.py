"""What a budget of time buys: our default recipe beside its peers', on the same text and machine.

::

    python benchmarks/learning_efficiency.py --family minibert --budget 10m
    python benchmarks/learning_efficiency.py --family minigpt --budget 10m --seeds 42 43 44

The stock peer is `BertForMaskedLM` or `GPT2LMHeadModel` of the same shape, tokenizer, text and held-out text. `Trainer`
trains it as `run_mlm.py` and `run_clm.py` do: documents joined and cut into rows, batches of eight, AdamW, a linear
schedule without warm-up (here over the budget), dropout 0.1, float32. The stock parts chosen well, `best-stock` and for
MiniBERT also `modernbert`, are the stronger peers; `peers.py` says how they train. MiniGPT has nanoGPT beside it: the
model and the optimizer of `peers.py`, gradients clipped at 1, a twentieth of the budget for the warm-up. On a GPU it
computes in bfloat16, as nanoGPT does, but it is not compiled and does not have nanoGPT's larger batch. A peer's
learning rate is the best of its four in `peers.py`, each tried for `--search_budget`; on a GPU those of peers that are
not compiled are tried at once, and share it alike. The clock of a compiled peer starts when it is compiled; ours
compiles within its time. With `--blimp`, ours and all peers but nanoGPT, which is no class of transformers, also choose
between sentences (BLiMP: Warstadt et al. 2020) at the end.

Runs take turns, and who begins changes with the seed. Then all models are measured on the same rows, masked alike, in
float32: rows of `--test_corpus`, which tuned nothing, or of what is held out of the corpus. Seeds that the result file
has are not run again: delete one to repeat it. A file whose runs lack a peer of today is refused. A machine that does
not compute in bfloat16 has a file of its own (`-fp32`), and so has a GPU.
"""

import dataclasses
import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch import nn
from transformers import PreTrainedModel

import charts
from hf_minibert import MiniBertForMaskedLM, MiniGPTForCausalLM
from hf_minibert.command_line import invocation, run
from hf_minibert.data.corpus import open_corpus
from hf_minibert.data.loader import evaluation_batches
from hf_minibert.data.rows import Rows
from hf_minibert.data.token_store import open_token_store
from hf_minibert.errors import UserError
from hf_minibert.evaluation.held_out import evaluate
from hf_minibert.files import write_json
from hf_minibert.pretraining.arguments import PretrainArguments, parse_duration
from hf_minibert.pretraining.data import RunData, held_out_rows, read_data
from hf_minibert.pretraining.plan import Plan, make_plan
from hf_minibert.runs.hardware import TOKENS_PER_BATCH, computes_in_bfloat16, hardware
from hf_minibert.tokenization import OWN_TOKENIZER, load_tokenizer, save_tokenizer
from peers import ON_OUR_ROWS, PEERS, RATES, train_peer, without_private_arguments
from runs import (
    RESULTS,
    Benchmark,
    curves,
    device,
    environment,
    last_two_parts,
    log_of,
    machine,
    mean,
    require_same,
    results_of,
    results_so_far,
    script,
    unit,
    write_results,
)

MEASURES = {"minibert": "loss", "minigpt": "bits_per_byte"}
OURS: dict[str, Any] = {"minibert": MiniBertForMaskedLM, "minigpt": MiniGPTForCausalLM}
COLORS = {"ours": "#d9480f", "stock": "#5f6b76", "best-stock": "#2b8a3e", "modernbert": "#862e9c", "nanogpt": "#3465a4"}
BUDGET = "10m"
TEST_ROWS = 1_024


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Train ours and its peers for the same time, and compare them on held-out text."""

    family: Literal["minibert", "minigpt"] = "minibert"
    """minibert: masked LM, beside BERT, EuroBERT and ModernBERT; minigpt: next token, beside GPT-2, Llama, nanoGPT."""
    size: str = "mini"
    """tiny, mini, small or medium."""
    corpus: list[str] = field(default_factory=lambda: ["builtin"])
    """Text, as in `scripts/pretrain.py`."""
    test_corpus: list[str] = field(default_factory=list)
    """Other text, to measure the models on at the end. Default: what is held out of the corpus, as during training."""
    blimp: list[str] = field(default_factory=list)
    """Minimal pairs, files or folders as in `hf-minibert evaluate --suite blimp`. Default: none."""
    max_pairs: int | None = None
    """Take only the first so many pairs of each paradigm."""
    budget: str = BUDGET
    """Time of each run."""
    search_budget: str = "2m"
    """Time for each learning rate of a peer."""
    learning_rates: list[float] = field(default_factory=list)
    """What every peer may choose from. Default: its own four rates of `peers.py`."""
    seeds: list[int] = field(default_factory=lambda: [42, 43, 44])
    """A comparison for each."""
    peers: list[str] = field(default_factory=list)
    """Whom to measure beside ours, in a file of its own. Default: all of the family's peers."""
    output_dir: str = "runs/learning_efficiency"
    """Folder for the runs."""
    peer: Literal["stock", "best-stock", "modernbert", "nanogpt"] | None = None
    """For a peer's own process: train it with the first of --learning_rates and of --seeds, into --output_dir."""


def chosen_peers(arguments: Arguments) -> list[str]:
    """Who is measured beside ours.

    Raises:
        UserError: the family has no such peer.
    """
    known = PEERS[arguments.family]
    for peer in arguments.peers:
        if peer not in known:
            raise UserError(f"peers of {arguments.family} are {', '.join(known)}; got {peer}")
    return arguments.peers or list(known)


def run_as_peer(arguments: Arguments, peer: str) -> None:
    """A peer's own process: train it, measure it, write `results.json`."""
    torch.set_flush_denormal(True)
    folder = Path(arguments.output_dir)
    plan = make_plan(pretrain_arguments(arguments, folder, arguments.seeds[0]))
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    data = read_data(plan, accelerator)
    seconds, rate = parse_duration(arguments.budget), arguments.learning_rates[0]
    model, training = train_peer(peer, plan, data, seconds=seconds, learning_rate=rate, folder=folder)
    if arguments.blimp and isinstance(model, PreTrainedModel):
        model.save_pretrained(folder)
        save_tokenizer(plan.tokenizer, folder)
    metrics = measure(
        without_private_arguments(model.to(accelerator.device), plan.objective.readings[0].targets),
        arguments,
        plan,
        data,
        accelerator,
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    write_json(folder / "results.json", {"num_parameters": count, "training": training, "metrics": metrics})


def measure(
    model: nn.Module, arguments: Arguments, plan: Plan, data: RunData, accelerator: Accelerator
) -> dict[str, float]:
    """Held-out loss of a model, and under `test_*` its loss on the text for that."""
    (reading,) = plan.objective.readings

    def on(rows: Rows, count: int) -> dict[str, float]:
        return evaluate(
            model,
            evaluation_batches(rows, batch_size=32, max_rows=count),
            accelerator,
            targets=reading.targets,
            settings=plan.objective.forward_settings(plan.arguments),
            token_lengths=data.token_lengths if reading.predicts_all else None,
        )

    metrics = on(data.held_out[0], plan.arguments.max_eval_samples)
    if arguments.test_corpus:
        store = open_token_store(open_corpus(arguments.test_corpus), plan.tokenizer)
        tested = on(held_out_rows(plan, reading, store.train), TEST_ROWS)
        metrics |= {name.replace("eval_", "test_"): value for name, value in tested.items()}
    return metrics


def measure_ours(arguments: Arguments, folder: Path, seed: int) -> dict[str, float]:
    """The same losses, of the model that a run of ours has written."""
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
    script("pretrain.py", settings)
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
    subprocess.run([sys.executable, __file__, str(folder / "arguments.json")], check=True)
    return results_of(folder)


def accuracy_on_pairs(arguments: Arguments, folder: Path) -> float:
    """In percent, the minimal pairs of which the model in a folder finds the better sentence likelier."""
    script(
        "evaluate.py",
        suite="blimp",
        model_name_or_path=folder,
        dataset=arguments.blimp,
        max_pairs=arguments.max_pairs,
        output_dir=f"{folder}-blimp",
    )
    return float(results_of(Path(f"{folder}-blimp"))["accuracy"])


def seconds_to(loss: float, log: list[dict[str, Any]]) -> float | None:
    """The time of the first evaluation of ours at or below a loss."""
    return next((line["seconds"] for line in log if line.get("eval_loss", float("inf")) <= loss), None)


def search(arguments: Arguments, peer: str, output: Path) -> dict[str, float]:
    """A peer's loss after a short time with each learning rate."""

    def loss(rate: float) -> float:
        folder, budget = output / f"{peer}-search-{rate}", arguments.search_budget
        tried = run_peer(arguments, peer, folder, seed=arguments.seeds[0], learning_rate=rate, budget=budget)
        return float(tried["metrics"]["eval_loss"])

    arguments = dataclasses.replace(arguments, blimp=[])
    rates = arguments.learning_rates or RATES[peer]
    open_token_store(open_corpus(arguments.corpus), load_tokenizer(OWN_TOKENIZER))  # not by all of them at once
    with ThreadPoolExecutor(len(rates)) as pool:
        is_shared = device().type == "cuda" and peer not in ON_OUR_ROWS  # these compile, each for a time of its own
        each = pool.map if is_shared else map
        return dict(zip(map(str, rates), each(loss, rates), strict=True))


def compare(arguments: Arguments, output: Path, seed: int, rates: dict[str, float]) -> dict[str, Any]:
    """Ours and its peers, one after another, with one seed."""
    everyone = ["ours", *chosen_peers(arguments)]
    turn = seed % len(everyone)
    found, log_of_ours = {}, []
    for who in everyone[turn:] + everyone[:turn]:
        folder = output / f"{who}-{seed}"
        if who == "ours":
            result = run_ours(arguments, folder, seed)
            log_of_ours = log_of(folder)
        else:
            budget = arguments.budget
            result = run_peer(arguments, who, folder, seed=seed, learning_rate=rates[who], budget=budget)
        found[who] = {key: result[key] for key in ("num_parameters", "training", "metrics")}
        found[who]["curves"] = curves(log_of(folder))
        if arguments.blimp and (folder / "config.json").exists():
            found[who]["blimp"] = accuracy_on_pairs(arguments, folder)
    for who in chosen_peers(arguments):
        # Both losses are of what is held out of the corpus: the run measures no test text on its way.
        found[who]["seconds_of_ours_to_its_loss"] = seconds_to(found[who]["metrics"]["eval_loss"], log_of_ours)
    return {"seed": seed, **found, "command": invocation(), "environment": environment()}


def time_to_loss(one: dict[str, Any], peer: str) -> str:
    """The share of its time that ours needs to reach a peer's loss: a bound, as only evaluations tell."""
    seconds = one[peer]["seconds_of_ours_to_its_loss"]
    if seconds is None:
        return "not reached"
    return f"at most {math.ceil(100 * seconds / one['ours']['training']['seconds'])}%"


def precisions(figures: dict[str, Any]) -> str:
    """The number formats of a comparison: the peers keep to those of their scripts."""
    whose = {who: figures["runs"][0][who]["training"]["precision"] for who in ("ours", *figures["peers"])}
    return ", ".join(f"{who} in {precision}" for who, precision in whose.items())


def digits_of(measure: str) -> int:
    """The digits that a table shows of a loss."""
    return 3 if measure.endswith("bits_per_byte") else 2


def table(figures: dict[str, Any]) -> list[str]:
    """Held-out loss of ours and of its peers after the same time."""
    name, digits = figures["measure"], digits_of(figures["measure"])
    peers = figures["peers"]
    lines = [
        f"| {figures['family']}-{figures['size']}, {figures['budget']} on {figures['hardware']}, {unit(name)} | ours | "
        + " | ".join(f"{peer} | time to its loss" for peer in peers)
        + " |",
        "|---|---:|" + "---:|---:|" * len(peers),
    ]
    for one in figures["runs"]:
        cells = [f"seed {one['seed']}", f"**{one['ours']['metrics'][name]:.{digits}f}**"]
        for peer in peers:
            cells += [f"{one[peer]['metrics'][name]:.{digits}f}", time_to_loss(one, peer)]
        lines.append(f"| {' | '.join(cells)} |")
    rates = "; ".join(
        f"{peer} {', '.join(f'{rate}: {loss:.2f}' for rate, loss in losses.items())}" for peer, losses in peers.items()
    )
    steps = "; ".join(
        f"{who} {', '.join(format(one[who]['training']['steps'], ',') for one in figures['runs'])}"
        for who in ("ours", *peers)
    )
    pairs = "; ".join(
        f"{who} {', '.join(format(one[who]['blimp'], '.1f') for one in figures['runs'])}"
        for who in ("ours", *peers)
        if all("blimp" in one[who] for one in figures["runs"])
    )
    measured = ", ".join(figures["test_corpus"]) or "documents held out of it, which also tuned our defaults"
    commands = "`, `".join(dict.fromkeys(one["command"] for one in figures["runs"]))
    return [
        *lines,
        "",
        f"Learning rates tried, and nats after {figures['search']['budget']} of each: {rates}. "
        f"Optimizer steps, by seed: {steps}."
        + (f" Accuracy on minimal pairs (BLiMP) in percent, by seed: {pairs}." if pairs else ""),
        "",
        f"({precisions(figures)}; text: {', '.join(figures['corpus'])}; measured on {measured}; `{commands}`)",
    ]


def efficiency() -> list[str]:
    """The losses of all comparisons that count, one line each."""
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
    chosen_well = [
        json.loads((RESULTS / f"learning_efficiency-{name}.json").read_text(encoding="utf-8"))
        for name in ("minibert-mini-modernbert", "minigpt-mini-best-stock")
    ]
    measured = {True: "other texts", False: "documents held out"}
    comparisons = (bert, hour, bert_on_gpu, gpt, gpt_on_gpu, *chosen_well)
    tried = " or ".join(sorted({figures["search"]["budget"] for figures in comparisons}, key=parse_duration))

    shown = [who for who in COLORS if any(who in figures["peers"] for figures in comparisons)]

    def row(figures: dict[str, Any]) -> str:
        digits = digits_of(figures["measure"])
        peers = (f"{mean(figures, who):.{digits}f}" if who in figures["peers"] else "" for who in shown)
        where = f"`{figures['family']}-{figures['size']}`, {figures['budget']} on {figures['hardware']}"
        return (
            f"| {where}, {unit(figures['measure'])} | **{mean(figures, 'ours'):.{digits}f}** | {' | '.join(peers)} "
            f"| {measured[bool(figures['test_corpus'])]} |"
        )

    everything = (*comparisons, characters)
    seeds = ", ".join(str(len(figures["runs"])) for figures in everything)
    weights = [
        (one["ours"]["num_parameters"], one[who]["num_parameters"])
        for figures in everything
        for one in figures["runs"]
        for who in shown
        if who in one
    ]
    apart = math.ceil(100 * max(abs(ours / peer - 1) for ours, peer in weights))
    on_gpu = gpt_on_gpu["runs"][0]["nanogpt"]["training"]["precision"]
    return [
        f"| | ours | {' | '.join(shown).replace('nanogpt', 'nanoGPT')} | measured on |",
        f"|---|---:|{'---:|' * len(shown)}---|",
        *(row(figures) for figures in comparisons),
        f"| Shakespeare by character, {characters['budget']} on {characters['hardware']}, nats | **{of_ours}** "
        f"|{' |' * shown.index('nanogpt')} {of_nanogpt} | its last tenth |",
        "",
        f"Same time, same text ({', '.join(bert['corpus'])}; last row: Shakespeare); their numbers of "
        f"parameters differ by at most {apart}%. "
        f"On a CPU {precisions(gpt)}; modernbert and best-stock (Llama) are stock parts chosen well, compiled, in "
        "bf16, whose clock starts when they are compiled. "
        f"On a GPU nanogpt computes in {on_gpu}, in which it was also measured, "
        "and ours has its defaults for a GPU: "
        f"{TOKENS_PER_BATCH['cuda']:,} tokens a step (stock and nanoGPT: eight rows), prepared by a process beside it. "
        f"A peer's learning rate is the best of four after {tried} each. Shakespeare: nanoGPT has its own settings; "
        "the shape and the rate of ours were chosen on the training text. "
        "On the GPU larger batches would help the peers, too. Short trials hardly tell stock BERT's rates apart. "
        '"Documents held out" also tuned our defaults; "other texts" tuned nothing. '
        f"Runs behind each row, each with a seed of its own: {seeds}.",
    ]


def chart(figures: dict[str, Any]) -> Figure:
    """Held-out loss of ours and its peers, and their training losses, over the time of the budget."""
    figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    dev, budget = figures["measure"].replace("test_", "eval_"), parse_duration(figures["budget"])
    word, per = ("minutes", 60) if budget > 60 else ("seconds", 1)
    for who in ("ours", *figures["peers"]):
        color = COLORS[who]
        for one in figures["runs"]:
            metrics, lines = one[who]["metrics"], one[who]["curves"]
            scale = metrics[dev] / metrics["eval_loss"]  # from nats to the unit of the chart
            training, held_out = (
                [(seconds / per, loss * scale) for _, _, seconds, loss in lines[kind] if loss is not None]
                for kind in ("training", "held_out")
            )
            if training:
                axes.plot(*zip(*training, strict=True), color=color, linewidth=0.8, alpha=0.5)
            # `Trainer` evaluates no peer on its way: there is the one loss at the end.
            held_out = held_out or [(budget / per, metrics[dev])]
            axes.plot(*zip(*held_out, strict=True), color=color, marker="o")
        if who != "ours":
            axes.axhline(mean(figures | {"measure": dev}, who), color=color, linestyle=":", linewidth=1)
        axes.plot([], [], color=color, marker="o", label=f"{who}, {figures['runs'][0][who]['training']['precision']}")
    axes.set_title(f"{figures['family']}-{figures['size']}, {figures['budget']} on {figures['hardware']}", fontsize=10)
    axes.set(xlabel=word, ylabel=unit(dev), xlim=(0, None))
    axes.legend(frameon=False, title="dots: held out of the corpus; thin: in training", title_fontsize=8)
    charts.remove_box(axes)
    return figure


def kept_results(file: Path, settings: dict[str, Any], arguments: Arguments) -> dict[str, Any]:
    """The results that a file holds already, to which this command can add; empty, if there is no such file.

    Raises:
        UserError: its settings are others, its peers had other rates to choose from, or its runs lack a peer.
    """
    before = results_so_far(file, settings, is_timed=True)
    if before:
        tried = {peer: [float(rate) for rate in losses] for peer, losses in before["peers"].items()}
        today = {peer: arguments.learning_rates or RATES[peer] for peer in tried}
        kept, wanted = {"budget": before["search"]["budget"], **tried}, {"budget": arguments.search_budget, **today}
        require_same({"search": kept}, {"search": wanted}, file, "move it away first")
        lacking = [peer for peer in chosen_peers(arguments) if any(peer not in one for one in before["runs"])]
        if lacking:
            raise UserError(
                f"{file} has runs without {', '.join(lacking)}, and all runs of a file must have the same peers; give "
                "another --results_dir"
            )
    return before


def main(arguments: Arguments) -> int:
    """A peer's own process, or the whole comparison."""
    if arguments.peer is not None:
        run_as_peer(arguments, arguments.peer)
        return 0
    budget = [] if arguments.budget == BUDGET else [arguments.budget]
    name = "-".join([arguments.family, arguments.size, *arguments.peers, *budget, *machine()])
    output = Path(arguments.output_dir).resolve() / name
    file = arguments.results / f"learning_efficiency-{name}.json"
    figures: dict[str, Any] = {
        "family": arguments.family,
        "size": arguments.size,
        "budget": arguments.budget,
        "hardware": hardware(device()),
        "precision": "bf16" if computes_in_bfloat16() else "fp32",
        "corpus": [last_two_parts(source) for source in arguments.corpus],
        "test_corpus": [last_two_parts(source) for source in arguments.test_corpus],
        "measure": f"{'test' if arguments.test_corpus else 'eval'}_{MEASURES[arguments.family]}",
        "blimp": {"dataset": [last_two_parts(name) for name in arguments.blimp], "max_pairs": arguments.max_pairs}
        if arguments.blimp
        else None,
    }
    before = kept_results(file, figures, arguments)
    figures["environment"] = environment()
    figures["search"] = {"budget": arguments.search_budget, "learning_rates": arguments.learning_rates}
    figures |= {"peers": before.get("peers", {}), "runs": before.get("runs", [])}
    for peer in chosen_peers(arguments):
        if peer not in figures["peers"]:
            figures["peers"][peer] = search(arguments, peer, output)
            write_results(file, figures)
    rates = {peer: float(min(losses, key=losses.__getitem__)) for peer, losses in figures["peers"].items()}
    for seed in arguments.seeds:
        if all(one["seed"] != seed for one in figures["runs"]):
            figures["runs"].append(compare(arguments, output, seed, rates))
            write_results(file, figures)
    charts.save(chart(figures), file)
    for who in ("ours", *chosen_peers(arguments)):
        print(f"{who}: {mean(figures, who):.3f} {unit(figures['measure'])}")  # noqa: T201
    return 0


if __name__ == "__main__":
    run(Arguments, main)
