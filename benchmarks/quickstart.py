"""What the quick start reaches: three minutes of pre-training on the builtin corpus, for both models.

::

    python benchmarks/quickstart.py

The builtin corpus is the documentation of the installed packages, so figures differ a little between machines.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_minibert.command_line import invocation, run
from runs import Benchmark, curves, log_of, results_of, script, show_card, write_results


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Run the quick start for both models."""

    output_dir: str = "runs/quickstart"
    """Folder for the two runs."""
    budget: str = "3m"
    """Time of each."""
    cards_dir: str = "runs/model_cards"
    """Folder for the cards; the repository's are in `model_cards`."""


def table(figures: dict[str, Any]) -> list[str]:
    """Held-out loss of both models beside that of word frequencies."""
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


def main(arguments: Arguments) -> int:
    """Both runs, one after the other."""
    figures, seeds = {}, set()
    for model in ("minibert-mini", "minigpt-mini"):
        output = Path(arguments.output_dir) / model
        script(
            "pretrain.py",
            model=model,
            corpus="builtin",
            budget=arguments.budget,
            output_dir=output,
            overwrite_output_dir=True,
        )
        results = results_of(output)
        seeds.add(json.loads((output / "arguments.json").read_text(encoding="utf-8"))["seed"])
        show_card(output, Path(arguments.cards_dir).resolve())
        figures[model] = {key: results[key] for key in ("num_parameters", "corpus", "training", "metrics")}
        figures[model]["curves"] = curves(log_of(output))
    (seed,) = seeds
    write_results(arguments.results / "quickstart.json", {"command": invocation(), "seed": seed, "runs": figures})
    return 0


if __name__ == "__main__":
    run(Arguments, main)
