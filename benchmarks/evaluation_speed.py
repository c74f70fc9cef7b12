"""How much faster minimal pairs are scored in batches than one sentence and one mask at a time.

::

    python benchmarks/evaluation_speed.py --dataset blimp.jsonl.xz --models minibert-tiny minigpt-tiny

Both score the same sentences in turns, a piece of them at a time, so that other work on the machine slows both alike;
their scores must agree.
"""

import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_minibert.command_line import run
from hf_minibert.errors import UserError
from hf_minibert.evaluation.minimal_pairs import read_pairs
from hf_minibert.evaluation.opening import LanguageModel, open_language_model
from hf_minibert.evaluation.scores import special_ids, text_scores
from hf_minibert.files import write_json
from hf_minibert.runs.hardware import hardware
from runs import Benchmark, environment


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Sentences per second, batched and one mask at a time."""

    dataset: list[str]
    """Minimal pairs: files or folders."""
    models: list[str] = field(default_factory=lambda: ["minibert-tiny", "minigpt-tiny"])
    """Folders or names of models."""
    sentences: int = 600
    """Sentences to score, drawn from all of the data set."""
    turns: int = 3
    """Pieces in which both score them by turns."""


@torch.no_grad()
def one_at_a_time(model: LanguageModel, text: str) -> float:
    """The score of a sentence as a plain loop gets it, with all logits of every pass."""
    before, behind = special_ids(model)
    ids = model.tokenizer(text, add_special_tokens=False).input_ids
    total = 0.0
    if model.backend == "causal":
        logits = model.model(torch.tensor([[*before, *ids]])).logits[0].log_softmax(dim=1)
        places = range(0 if before else 1, len(ids))
        return sum(float(logits[place + len(before) - 1, ids[place]]) for place in places)
    for place, token in enumerate(ids):
        hidden = [*before, *ids[:place], model.tokenizer.mask_token_id, *ids[place + 1 :], *behind]
        logits = model.model(torch.tensor([hidden])).logits[0].log_softmax(dim=1)
        total += float(logits[place + len(before) - model.offset, token])
    return total


def main(arguments: Arguments) -> int:
    """Measure both, by turns."""
    pairs = read_pairs(arguments.dataset, good_column="sentence_good", bad_column="sentence_bad")
    texts = random.Random(0).sample([*pairs.good, *pairs.bad], min(arguments.sentences, 2 * len(pairs)))
    rows: list[dict[str, Any]] = []
    for name in arguments.models:
        model = open_language_model(name)
        seconds = {"batched": 0.0, "one at a time": 0.0}
        largest = 0.0
        for turn in range(arguments.turns):
            some = texts[turn :: arguments.turns]
            begin = time.perf_counter()
            batched = text_scores(model, some)
            middle = time.perf_counter()
            plain = [one_at_a_time(model, text) for text in some]
            seconds["batched"] += middle - begin
            seconds["one at a time"] += time.perf_counter() - middle
            largest = max(largest, *(abs(one - other) for one, other in zip(batched, plain, strict=True)))
        if largest > 1e-4:
            raise UserError(f"the scores of {name} differ by {largest:.1e}")
        rows.append(
            {
                "model": name,
                "sentences": len(texts),
                "times_as_fast": seconds["one at a time"] / seconds["batched"],
                "largest_difference": largest,
                "seconds": seconds,
            }
        )
        print(json.dumps(rows[-1]))
    found = {"hardware": hardware(model.device), "threads": torch.get_num_threads(), "rows": rows}
    write_json(arguments.results / "evaluation_speed.json", found | {"environment": environment()})
    return 0


if __name__ == "__main__":
    run(Arguments, main)
