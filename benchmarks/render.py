"""Put the figures of ``benchmarks/results`` into the README, between their markers.

::

    python benchmarks/render.py

Nobody types a figure; a test checks that the README says what the files say.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_minibert.command_line import run
from hf_minibert.files import write_text

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
README = REPOSITORY / "README.md"


@dataclass(kw_only=True)
class Arguments:
    """Render all figures into the README."""


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


TABLES = {"quickstart": quickstart}


def render(text: str) -> str:
    """The README with every table as the files have it now."""
    for name, table in TABLES.items():
        figures = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        begin, end = f"<!-- figures:{name} -->\n", f"<!-- end:{name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        assert found, f"README.md has no place for {name}"
        assert closed, f"README.md does not end the place for {name}"
        text = before + begin + "\n".join(table(figures)) + "\n" + end + after
    return text


def main(_: Arguments) -> int:
    """Rewrite the README."""
    write_text(README, render(README.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    run(Arguments, main)
