"""lm-eval on our models: the same numbers as the suite of minimal pairs, on the same 200 pairs."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import REPOSITORY

from hf_minibert.assets import model_folder as reference
from hf_minibert.evaluation.lm_eval_model import register
from hf_minibert.evaluation.opening import open_language_model
from hf_minibert.evaluation.scores import text_scores
from hf_minibert.export.convert import export

pytestmark = [pytest.mark.client, pytest.mark.filterwarnings("ignore")]
lm_eval = pytest.importorskip("lm_eval")

NOUNS = ["cat", "dog", "king", "child", "house", "river", "letter", "city", "friend", "book"]
VERBS = [("is", "are"), ("was", "were"), ("has", "have"), ("sees", "see")]
PLACES = ["in the park", "near the old town", "at night", "without a word", "again and again"]
PAIRS = [
    (f"The {noun} {good} there {place}.", f"The {noun} {bad} there {place}.")
    for noun, (good, bad), place in itertools.product(NOUNS, VERBS, PLACES)
]


@pytest.mark.parametrize(
    ("kind", "settings", "name"),
    [
        ("hf-mlm", "", "minibert-tiny"),
        ("hf-mlm", "", "hybrid"),
        ("hf-mlm", "", "exported minibert-tiny"),
        ("hf", ",dtype=float32", "minigpt-tiny"),
        ("hf", ",dtype=float32", "exported minigpt-tiny"),
    ],
)
def test_scores_are_those_of_the_suite(
    kind: str, settings: str, name: str, tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    from lm_eval.tasks import TaskManager

    register()
    assert len(PAIRS) == 200
    lines = [json.dumps({"sentence_good": good, "sentence_bad": bad}) + "\n" for good, bad in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    task = yaml.safe_load((REPOSITORY / "scripts" / "configs" / "minimal_pairs.yaml").read_text())
    task["dataset_kwargs"]["data_files"]["validation"] = str(tmp_path / "pairs.jsonl")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "minimal_pairs.yaml").write_text(yaml.safe_dump(task))
    folder = reference(name.removeprefix("exported ")) if name.endswith("tiny") else str(model_folder(name))
    ours = open_language_model(folder)
    if name.startswith("exported"):
        export(folder, str(tmp_path / "stock"))
        folder = str(tmp_path / "stock")
    found = lm_eval.simple_evaluate(
        model=kind,
        model_args=f"pretrained={folder}{settings}",
        tasks=["minimal_pairs"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks")),
        batch_size=16,
        device="cpu",
        bootstrap_iters=0,
    )
    theirs = {
        sample["doc"]["sentence_good"]: [float(score) for score, _ in sample["filtered_resps"]]
        for sample in found["samples"]["minimal_pairs"]
    }
    good, bad = (text_scores(ours, [pair[side] for pair in PAIRS]) for side in (0, 1))
    np.testing.assert_allclose([theirs[pair[0]] for pair in PAIRS], np.stack((good, bad), axis=1), atol=1e-3)
    assert found["results"]["minimal_pairs"]["acc,none"] == pytest.approx(float((good >= bad).mean()))
