"""What the quick start reaches: three minutes of pre-training on the builtin corpus, for both models.

::

    python benchmarks/quickstart.py

Figures go to ``benchmarks/results/quickstart.json``, the cards to ``model_cards``. The builtin corpus is what is
installed, so figures differ a little from machine to machine.
"""

import json
import shutil
from dataclasses import dataclass

from hf_minibert.command_line import invocation, run
from hf_minibert.files import write_json, write_text
from runs import REPOSITORY, RESULTS, keep, results_of, script

CARDS = REPOSITORY / "model_cards"


@dataclass(kw_only=True)
class Arguments:
    """Run the quick start for both models."""

    output_dir: str = "runs/quickstart"
    """Folder for the two runs."""
    budget: str = "3m"
    """Time of each."""


def main(arguments: Arguments) -> int:
    """Both runs, one after the other."""
    figures, seeds = {}, set()
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
        keep(output, f"quickstart-{model}")
        results = results_of(output)
        seeds.add(json.loads((output / "arguments.json").read_text(encoding="utf-8"))["seed"])
        card = (output / "README.md").read_text(encoding="utf-8")
        write_text(CARDS / f"{model}.md", card.replace("(curves.png)", f"({model}.png)"))
        shutil.copy(output / "curves.png", CARDS / f"{model}.png")
        figures[model] = {key: results[key] for key in ("num_parameters", "corpus", "training", "metrics")}
    command_line = invocation()
    (seed,) = seeds
    write_json(RESULTS / "quickstart.json", {"command": command_line, "seed": seed, "runs": figures})
    return 0


if __name__ == "__main__":
    run(Arguments, main)
