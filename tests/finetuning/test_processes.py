"""Tasks whose measures need more than a label a row: two processes measure what one does."""

import json
from pathlib import Path

import pytest
import test_answers
import test_questions
import test_tagged
import test_tokens
from commands import REPOSITORY, TWO_PROCESSES, command

from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.finetune import finetune

ROWS = {
    "question-answering": lambda path: test_questions.write(path, test_answers.CITIES),
    "token-classification": lambda path: test_tagged.write(path, [*test_tokens.TOY, (["Ann"] * 40, ["B-PER"] * 40)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", ROWS)
def test_two_processes_measure_what_one_does(task: str, tmp_path: Path) -> None:
    for name in ("train", "dev"):
        ROWS[task](tmp_path / f"{name}.jsonl")  # type: ignore[no-untyped-call]
    settings = {
        "task": task,
        "dataset": str(tmp_path),
        "max_seq_length": 48,
        "per_device_eval_batch_size": 2,
        "mixed_precision": "no",
    }
    settings |= {"num_train_epochs": 8.0, "learning_rate": 1e-3}
    start = {"model_name_or_path": REPOSITORY / "checkpoints" / "minibert-tiny", "output_dir": tmp_path / "two"}
    done = command("finetune.py", tmp_path / "cache", launcher=TWO_PROCESSES, **settings, **start)
    assert done.returncode == 0, done.stderr
    again = {"model_name_or_path": str(tmp_path / "two"), "output_dir": str(tmp_path / "one")}
    hardly = {"learning_rate": 1e-12, "num_train_epochs": 1.0}
    assert finetune(FinetuneArguments(**settings | again | hardly)) == 0
    two, one = (json.loads((tmp_path / name / "results.json").read_text())["metrics"] for name in ("two", "one"))
    assert two.pop("eval_loss") == pytest.approx(one.pop("eval_loss"), rel=1e-4)
    assert two == one
    assert 0 < two["eval_f1"] <= 1
