"""What the quick start reaches: three minutes of pre-training on the builtin corpus, for both models.

::

    python benchmarks/quickstart.py

Figures go to ``benchmarks/results/quickstart.json``, the cards to ``model_cards``. The builtin corpus is what is
installed, so figures differ a little from machine to machine.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hf_minibert.command_line import invocation, run
from hf_minibert.files import write_json, write_text

REPOSITORY = Path(__file__).parents[1]
CARDS = REPOSITORY / "model_cards"
RESULTS = REPOSITORY / "benchmarks" / "results" / "quickstart.json"


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
        output = Path(arguments.output_dir) / model
        command = [sys.executable, "scripts/pretrain.py", "--model", model, "--corpus", "builtin"]
        command += ["--budget", arguments.budget, "--output_dir", str(output), "--overwrite_output_dir"]
        subprocess.run(command, check=True, cwd=REPOSITORY)
        results, settings = (
            json.loads((REPOSITORY / output / name).read_text()) for name in ("results.json", "arguments.json")
        )
        seeds.add(settings["seed"])
        card = (REPOSITORY / output / "README.md").read_text(encoding="utf-8")
        write_text(CARDS / f"{model}.md", card.replace("(curves.png)", f"({model}.png)"))
        shutil.copy(REPOSITORY / output / "curves.png", CARDS / f"{model}.png")
        figures[model] = {key: results[key] for key in ("num_parameters", "corpus", "training", "metrics")}
    command_line = invocation()
    (seed,) = seeds
    write_json(RESULTS, {"command": command_line, "seed": seed, "runs": figures})
    return 0


if __name__ == "__main__":
    run(Arguments, main)
