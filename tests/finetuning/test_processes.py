"""Tasks whose measures need more than a label a row: two processes measure what one does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_answers
import test_questions
import test_tagged
import test_tokens
from commands import REPOSITORY, TWO_PROCESSES, command

from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.finetune import finetune


def rows(path: Path, some: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in some))


TEXTS = [f"{['red', 'blue', 'green'][at % 3]} thing number {at}" for at in range(13)]  # an odd number, of 2 a batch
ROWS: dict[str, Callable[[Path], object]] = {
    "question-answering": lambda path: test_questions.write(path, test_answers.CITIES),
    "token-classification": lambda path: test_tagged.write(path, [*test_tokens.TOY, (["Ann"] * 40, ["B-PER"] * 40)]),
    "multiple-choice": lambda path: rows(
        path,
        [
            {"question": text, "choices": ["red", "blue", "green"][: 2 + at % 2], "label": at % 2}
            for at, text in enumerate(TEXTS)
        ],
    ),
    "causal-lm": lambda path: rows(path, [{"text": f"{text} and more " * (1 + at)} for at, text in enumerate(TEXTS)]),
    "text-classification": lambda path: rows(  # of several labels each
        path, [{"text": text, "label": [text.split()[0], "ab"[at % 2]]} for at, text in enumerate(TEXTS)]
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", ROWS)
def test_two_processes_measure_what_one_does(task: str, tmp_path: Path) -> None:
    for name in ("train", "dev"):
        ROWS[task](tmp_path / f"{name}.jsonl")
    settings = {
        "task": task,
        "dataset": str(tmp_path),
        "max_seq_length": 48,
        "per_device_eval_batch_size": 2,
        "mixed_precision": "no",
    }
    settings |= {"num_train_epochs": 8.0, "learning_rate": 1e-3}
    name = "minigpt-tiny" if task == "causal-lm" else "minibert-tiny"
    start = {"model_name_or_path": REPOSITORY / "checkpoints" / name, "output_dir": tmp_path / "two"}
    done = command("finetune.py", tmp_path / "cache", launcher=TWO_PROCESSES, **settings, **start)
    assert done.returncode == 0, done.stderr
    again = {"model_name_or_path": str(tmp_path / "two"), "output_dir": str(tmp_path / "one")}
    hardly = {"learning_rate": 1e-12, "num_train_epochs": 1.0}
    assert finetune(FinetuneArguments(**settings | again | hardly)) == 0
    two, one = (json.loads((tmp_path / name / "results.json").read_text())["metrics"] for name in ("two", "one"))
    assert two.keys() == one.keys()
    assert two == pytest.approx(one, rel=1e-4)
    name = {"multiple-choice": "eval_accuracy", "causal-lm": "eval_loss", "text-classification": "eval_micro_f1"}
    assert two[name.get(task, "eval_f1")] > 0
