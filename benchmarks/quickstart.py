"""What the quick start reaches: three minutes of pre-training on the builtin corpus, for both models.

::

    python benchmarks/quickstart.py

The builtin corpus is what is installed, so figures differ a little from machine to machine.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from hf_minibert.command_line import invocation, run
from hf_minibert.files import write_json, write_text
from runs import REPOSITORY, Benchmark, keep, results_of, script


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Run the quick start for both models."""

    output_dir: str = "runs/quickstart"
    """Folder for the two runs."""
    budget: str = "3m"
    """Time of each."""
    cards_dir: str = "runs/model_cards"
    """Folder for the cards; the repository's are in `model_cards`."""


def main(arguments: Arguments) -> int:
    """Both runs, one after the other."""
    figures, seeds = {}, set()
    cards = Path(arguments.cards_dir).resolve()
    cards.mkdir(parents=True, exist_ok=True)
    for model in ("minibert-mini", "minigpt-mini"):
        output_dir = f"{arguments.output_dir}/{model}"
        script(
            "pretrain.py",
            model=model,
            corpus="builtin",
            budget=arguments.budget,
            output_dir=output_dir,
            overwrite_output_dir=True,
        )
        output = REPOSITORY / output_dir
        keep(output, arguments.results, f"quickstart-{model}")
        results = results_of(output)
        seeds.add(json.loads((output / "arguments.json").read_text(encoding="utf-8"))["seed"])
        card = (output / "README.md").read_text(encoding="utf-8")
        write_text(cards / f"{model}.md", card.replace("(curves.png)", f"({model}.png)"))
        shutil.copy(output / "curves.png", cards / f"{model}.png")
        figures[model] = {key: results[key] for key in ("num_parameters", "corpus", "training", "metrics")}
    (seed,) = seeds
    write_json(arguments.results / "quickstart.json", {"command": invocation(), "seed": seed, "runs": figures})
    return 0


if __name__ == "__main__":
    run(Arguments, main)
